//! What the PostgreSQL source and the PostgreSQL target share: connecting, quoting, errors.
