//! Golden files of T-SQL: every statement that is sent stands in one under `tests/integration/tsql`, where a grammar reads it.
//! `UPDATE_GOLDEN=1` writes them anew.

use std::path::Path;

/// Compares statements with the golden file `name`, which has `.sql` behind it.
pub(crate) fn assert_golden(name: &str, statements: &[String]) {
    let text = statements.join(";\nGO\n") + ";\nGO\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/tsql").join(format!("{name}.sql"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), text, "{}", path.display());
}
