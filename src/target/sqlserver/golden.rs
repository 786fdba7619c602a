//! Every kind of statement that the target sends, as it stands in `tests/integration/tsql/target`, where a grammar reads it.
