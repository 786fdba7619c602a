//! SQLFluff, which knows the grammar of T-SQL: where there is no SQL Server, it says at least whether what we send to one is SQL.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

const VERSION: &str = "4.5.0";

/// What SQLFluff finds in the files of a folder that is no T-SQL: file, line and words of each fault.
pub fn faults(folder: &Path) -> Vec<(String, u64, String)> {
    let mut command = Command::new(installed());
    // It wants to be asked for one rule at least: this one is of taste, and not heeded.
    let output = command.args(["lint", "--dialect", "tsql", "--rules", "LT12", "--format", "json", "--disable-progress-bar"]).arg(folder);
    let output = output.output().expect("SQLFluff runs");
    let files: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let faults = files.as_array().unwrap().iter().flat_map(|file| {
        let violations = file["violations"].as_array().unwrap().iter().filter(|fault| fault["code"] == "PRS");
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        violations.map(move |fault| (text(&file["filepath"]), fault["start_line_no"].as_u64().unwrap(), text(&fault["description"])))
    });
    faults.collect()
}

/// Its program, installed with pip into the folder where everything is kept that is built once.
fn installed() -> PathBuf {
    static INSTALL: std::sync::Once = std::sync::Once::new();
    let cache = std::env::var_os("LINK_CACHE")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/link-operator"), PathBuf::from);
    let folder = cache.join(format!("sqlfluff-{VERSION}"));
    let program = folder.join("bin/sqlfluff");
    INSTALL.call_once(|| {
        if !program.is_file() {
            let run = |command: &mut Command| {
                let status = command.status().expect("Python runs: apt-get install python3-venv");
                assert!(status.success(), "{command:?}: {status}");
            };
            run(Command::new("python3").args(["-m", "venv"]).arg(&folder));
            let package = format!("sqlfluff=={VERSION}");
            run(Command::new(folder.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check", &package]));
        }
    });
    program
}
