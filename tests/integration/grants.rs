//! `link-operator sql grants`: its scripts as they are printed, and whether what they grant to a PostgreSQL user is enough.

use std::path::{Path, PathBuf};

use link_operator::standalone;

use crate::tsql::assert_golden;

fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/grants/links.yaml")
}

#[test]
fn scripts_are_printed_as_they_were_reviewed() {
    let script = standalone::grants(&manifests()).unwrap();
    assert!(!script.contains("hunter2"), "a password is printed");
    let (mut transact, mut postgresql) = (Vec::new(), String::new());
    for section in script.split_inclusive("\n\n") {
        let heading = section.lines().next().unwrap();
        let link = heading.split(['/', ',']).nth(1).unwrap();
        let side = if heading.contains(", source: ") { "source" } else { "target" };
        if heading.contains("SQL Server at") {
            transact.push((format!("grants/{link}-{side}.sql"), section.trim_end().to_owned() + "\n"));
        } else {
            postgresql.push_str(section);
        }
    }
    assert_eq!(transact.len(), 4, "{script}");
    for (file, section) in transact {
        assert_golden(&file, &section);
    }
    assert_golden("../grants/postgresql.sql", &postgresql);
}
