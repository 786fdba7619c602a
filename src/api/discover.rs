//! Which tables of a source a link asks for by patterns of their names. Pure.

use globset::{Glob, GlobMatcher};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::TableName;

/// Schema and table, parted by the first dot.
const PATTERN: &str = r"^[^.]+\.[\s\S]+$";

/// Which tables of the source to link: those that a pattern of `include` matches and none of `exclude` does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Discover {
    /// Patterns of tables to link, such as `public.*` or `sales.order_{header,line}`. A pattern is `<schema>.<table>`, parted by its
    /// first dot, and compared with the whole names exactly as the database spells them (upper and lower case count): `*` stands for any
    /// number of characters, `?` for one, `[a-z]` for one of them, `{a,b}` for one of these; `\` before such a character means the
    /// character itself. For a dot in the name of a schema write `?`.
    #[schemars(length(min = 1, max = 64), inner(length(min = 3, max = 257), regex(pattern = PATTERN)))]
    pub include: Vec<String>,
    /// Patterns of tables to leave out of those, such as `*.tmp_*`. Default: none.
    #[schemars(length(max = 64), inner(length(min = 3, max = 257), regex(pattern = PATTERN)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
}

/// A pattern that is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is no pattern: {problem}")]
pub struct PatternInvalid {
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Discover {
    /// The patterns, ready to be compared with names.
    pub fn patterns(&self) -> Result<Patterns, PatternInvalid> {
        let all = |patterns: &[String]| patterns.iter().map(|pattern| Pattern::new(pattern)).collect::<Result<Vec<_>, _>>();
        Ok(Patterns { include: all(&self.include)?, exclude: all(&self.exclude)? })
    }
}

/// Patterns that can be compared with names.
#[derive(Clone, Debug)]
pub struct Patterns {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

impl Patterns {
    /// Whether the link asks for this table.
    pub fn ask_for(&self, table: &TableName) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(table));
        any(&self.include) && !any(&self.exclude)
    }
}

#[derive(Clone, Debug)]
struct Pattern {
    schema: GlobMatcher,
    table: GlobMatcher,
}

impl Pattern {
    fn new(text: &str) -> Result<Self, PatternInvalid> {
        let invalid = |problem: String| PatternInvalid { pattern: text.to_owned(), problem };
        // Each part by itself: a `*` for the schema must not reach into the name of the table.
        let (schema, table) = text.split_once('.').ok_or_else(|| invalid("it has no dot between schema and table".to_owned()))?;
        let glob = |part: &str| Glob::new(part).map(|glob| glob.compile_matcher()).map_err(|error| invalid(error.kind().to_string()));
        Ok(Self { schema: glob(schema)?, table: glob(table)? })
    }

    fn matches(&self, table: &TableName) -> bool {
        self.schema.is_match(&table.schema_name) && self.table.is_match(&table.table_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(include: &[&str], exclude: &[&str], schema: &str, table: &str) -> bool {
        let owned = |patterns: &[&str]| patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        let discover = Discover { include: owned(include), exclude: owned(exclude) };
        discover.patterns().unwrap().ask_for(&TableName::new(schema, table))
    }

    #[test]
    fn patterns_are_of_whole_names_in_two_parts() {
        let public = |table| asks(&["public.*"], &["*.tmp_*"], "public", table);
        assert!(public("orders") && public("Orders") && public("a.b") && public("a/b") && public("naïve ☃"));
        assert!(!public("tmp_1") && public("atmp_1"));
        assert!(!asks(&["public.*"], &[], "public2", "a") && !asks(&["public.*"], &[], "Public", "a"));
        assert!(!asks(&["*.orders"], &[], "public", "old.orders") && !asks(&["public.order"], &[], "public", "orders"));
        assert!(asks(&["s?a.{x,y}[0-9]"], &[], "s.a", "y7") && !asks(&["s?a.{x,y}[0-9]"], &[], "s.a", "z7"));
        assert!(asks(&[r"public.\*"], &[], "public", "*") && !asks(&[r"public.\*"], &[], "public", "a"));
        assert!(!asks(&["a.*"], &["a.*"], "a", "b"));
    }

    #[test]
    fn what_is_no_pattern_is_named() {
        for (pattern, problem) in [("orders", "no dot"), ("public.[a", "unclosed"), ("{a.b,c.d}", "unclosed")] {
            let discover = Discover { include: vec![pattern.to_owned()], exclude: vec![] };
            let error = discover.patterns().unwrap_err();
            assert!(error.pattern == pattern && error.problem.contains(problem), "{error}");
        }
    }
}
