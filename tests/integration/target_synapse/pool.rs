//! A pool that is acted: it answers the target's statements from a model of its own tables, with transactions that roll back, and
//! refuses what a pool refuses in them. What rows do it does not act: it says that as many were moved as a test tells it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex},
};

use crate::support::tds::{Answer, Fault, Request, Script, Server, Type, Value, row};

/// What stands in the pool's tables, as far as the target asks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// How many of the link's own objects are made.
    pub own: usize,
    /// The claimed name, if there is a claim.
    pub claim: Option<String>,
    /// Run, incarnation and record, once one has begun.
    pub progress: Option<(i64, i64, i64)>,
    pub exact: bool,
    pub placing: Option<i64>,
    pub placed: Option<i64>,
    pub chunks: BTreeSet<i64>,
    /// Tables of the schema `dw`, by name, with their object ids.
    pub tables: BTreeMap<String, i64>,
    /// The link's marks.
    pub marks: BTreeMap<i64, String>,
    /// Columns of tables that were altered.
    pub columns: BTreeSet<String>,
    pub noted: BTreeSet<String>,
    /// What was done to rows, in order, and stayed done.
    pub moves: Vec<String>,
    ids: i64,
}

type Change = Box<dyn Fn(&mut State) + Send>;

/// The model and what a test has it do.
#[derive(Default)]
struct Model {
    state: State,
    /// By connection: the state before its transaction.
    before: HashMap<usize, State>,
    /// Answers for the first statement that holds a text, and what happens with them.
    faults: Vec<(String, Answer, Option<Change>)>,
    wrong: Vec<String>,
}

/// The pool.
pub struct Pool {
    pub server: Server,
    model: Arc<Mutex<Model>>,
}

impl Pool {
    pub fn start() -> Self {
        let model = Arc::new(Mutex::new(Model::default()));
        let acted = model.clone();
        Self { server: Server::start(Script::new(move |request| acted.lock().unwrap().answer(request))), model }
    }

    /// The first statement that holds this gets this answer instead; a fault in a transaction rolls it back.
    pub fn fault(&self, statement: &str, answer: Answer) {
        self.model.lock().unwrap().faults.push((statement.to_owned(), answer, None));
    }

    /// As the first statement that holds this comes, somebody else does this.
    pub fn meanwhile(&self, statement: &str, change: impl Fn(&mut State) + Send + 'static) {
        self.model.lock().unwrap().faults.push((statement.to_owned(), Answer::done(), Some(Box::new(change))));
    }

    /// What stands there, once what was not committed is rolled back.
    pub fn state(&self) -> State {
        let mut model = self.model.lock().unwrap();
        model.roll_back();
        assert!(model.wrong.is_empty(), "a pool would not take: {:#?}", model.wrong);
        model.state.clone()
    }

    pub fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.model.lock().unwrap().state);
    }

    /// Statements that hold one of these, cut to their first words, in order.
    pub fn said(&self, words: &[&str]) -> Vec<String> {
        let statements = self.server.statements().into_iter().filter(|statement| words.iter().any(|word| statement.contains(word)));
        statements.collect()
    }
}

/// A number behind a text.
fn number(statement: &str, before: &str) -> Option<i64> {
    let at = statement.find(before)? + before.len();
    let digits: String = statement[at..].chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// A text between two.
fn between<'a>(statement: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let at = statement.find(before)? + before.len();
    statement[at..].split(after).next()
}

fn texts(rows: impl IntoIterator<Item = String>) -> Answer {
    Answer::rows([("text", Type::NVarChar(400))], rows.into_iter().map(|text| row![text]))
}

fn ones(count: usize) -> Answer {
    Answer::rows([("one", Type::Int)], (0..count).map(|_| row![1]))
}

impl Model {
    fn roll_back(&mut self) {
        // Tests are one after the other: a transaction that is left open has lost its client.
        for (_, before) in std::mem::take(&mut self.before) {
            self.state = before;
        }
    }

    fn answer(&mut self, request: &Request) -> Answer {
        let statement = request.statement.as_str();
        let begins = statement == "BEGIN TRANSACTION";
        if begins {
            self.roll_back();
        }
        if let Some(at) = self.faults.iter().position(|(words, ..)| statement.contains(words.as_str())) {
            let (_, answer, change) = self.faults.remove(at);
            match change {
                None => {
                    self.roll_back();
                    return answer;
                }
                Some(change) => {
                    change(&mut self.state);
                    for before in self.before.values_mut() {
                        change(before);
                    }
                }
            }
        }
        if begins {
            self.before.insert(request.connection, self.state.clone());
            return Answer::done();
        }
        if statement == "COMMIT TRANSACTION" {
            self.before.remove(&request.connection);
            return Answer::done();
        }
        let is_ddl =
            ["CREATE ", "ALTER ", "DROP ", "RENAME ", "TRUNCATE ", "GRANT ", "COPY "].iter().any(|verb| statement.starts_with(verb));
        if is_ddl && self.before.contains_key(&request.connection) {
            self.wrong.push(statement.to_owned());
            return Answer::error(111_212, "Operation cannot be performed within a transaction.");
        }
        self.act(statement)
    }

    fn id(&mut self) -> i64 {
        self.state.ids += 1;
        1000 + self.state.ids
    }

    fn of(&self, statement: &str) -> bool {
        let named = (number(statement, "[run] = "), number(statement, "[incarnation] = "));
        self.state.progress.is_some_and(|(run, incarnation, _)| named == (Some(run), Some(incarnation)))
    }

    fn progress_row(&self) -> Vec<Value> {
        match self.state.progress {
            Some((run, incarnation, record)) => row![run, incarnation, record, i64::from(self.state.exact), 0_i64, None::<i64>],
            None => row![None::<i64>, None::<i64>, None::<i64>, 0_i64, 0_i64, None::<i64>],
        }
    }

    #[expect(clippy::too_many_lines, reason = "a statement after the other")]
    fn act(&mut self, statement: &str) -> Answer {
        let has = |words: &str| statement.contains(words);
        let starts = |words: &str| statement.starts_with(words);
        let numbers = |names: &[&'static str]| names.iter().map(|name| (*name, Type::BigInt)).collect::<Vec<_>>();
        let progress = ["run", "incarnation", "record", "exact", "rows", "group"];
        let named = ["a", "b"].map(|name| (name, Type::NVarChar(128)));
        let state = &mut self.state;
        if starts("SET ") || starts("CREATE TABLE #") || starts("DROP TABLE #") || starts("COPY INTO #") {
            Answer::done()
        } else if has("'Collation'") {
            texts(["SQL_Latin1_General_CP1_CI_AS".to_owned()])
        } else if has("'EngineEdition'") {
            let columns = [("e", Type::Int), ("u", Type::NVarChar(128)), ("d", Type::NVarChar(128)), ("s", Type::Int), ("v", Type::Int)];
            Answer::rows(columns, [row![6, "loader", "pool", i32::from(state.own > 0), 1]])
        } else if has("fn_my_permissions(NULL") {
            texts(["CREATE TABLE", "CREATE SCHEMA", "CREATE VIEW", "ADMINISTER DATABASE BULK OPERATIONS"].map(str::to_owned))
        } else if has("fn_my_permissions(") {
            texts(["ALTER", "DELETE", "INSERT", "SELECT", "UPDATE"].map(str::to_owned))
        } else if starts("SELECT USER_NAME() FROM sys.schemas") {
            texts(has("N'dw'").then(|| "loader".to_owned()))
        } else if starts("SELECT CASE WHEN SCHEMA_ID") {
            let own = state.own;
            Answer::rows(numbers(&["a", "b", "c", "d", "e", "f", "g"]), [(0..7).map(|at| Value::Int(i64::from(at < own))).collect()])
        } else if starts("CREATE SCHEMA [link_operator]") || starts("CREATE TABLE [link_operator]") || starts("CREATE VIEW [link_operator]")
        {
            state.own += 1;
            Answer::done()
        } else if starts("SELECT [target_schema], [target_table] FROM") {
            Answer::rows(named, state.claim.iter().map(|name| row!["dw", name.as_str()]))
        } else if has("[link_lock]") {
            Answer::count(1)
        } else if starts("INSERT INTO [link_operator].[link_progress]") {
            state.claim.get_or_insert_with(|| "orders".to_owned());
            Answer::count(1)
        } else if starts("SELECT [link_id], [source_schema], [source_table], [placed]") {
            let columns = ["l", "s", "t"].map(|name| (name, Type::NVarChar(128)));
            let columns = columns.into_iter().chain(numbers(&["placed"]));
            Answer::rows(columns, state.claim.iter().map(|_| row!["ns.shop", "public", "orders", state.placed]))
        } else if has("FROM sys.objects o") {
            let id = between(statement, "o.[name] = N'", "'").and_then(|name| state.tables.get(name)).copied();
            Answer::rows([("id", Type::BigInt), ("r", Type::Int)], id.map(|id| row![id, 1]))
        } else if starts("SELECT [mark]") {
            texts(state.marks.get(&number(statement, "[object_id] = ").unwrap()).cloned())
        } else if has("[updated_at] = [updated_at]") {
            Answer::count(u64::from(state.claim.is_some()))
        } else if starts("SELECT [target_schema], [target_table], [placed]") {
            let (claim, placed) = (state.claim.clone(), state.placed);
            let columns = named.into_iter().chain(numbers(&["placed"])).chain(numbers(&progress));
            let row = |name: String| row!["dw", name, placed].into_iter().chain(self.progress_row()).collect();
            Answer::rows(columns, claim.map(row))
        } else if has("IS NOT NULL SELECT [run]") {
            let there = state.claim.is_some();
            Answer::rows(numbers(&progress), there.then(|| self.progress_row()))
        } else if has("SELECT [source_schema], [source_table], [target_schema]") {
            let columns = ["a", "b", "c", "d"].map(|name| (name, Type::NVarChar(128)));
            Answer::rows(columns, state.claim.iter().map(|name| row!["public", "orders", "dw", name.as_str()]))
        } else if has("FROM sys.tables t JOIN sys.schemas s") {
            let prefix = between(statement, "LIKE N'", "'").unwrap_or_default().replace("[_]", "_").trim_end_matches('%').to_owned();
            Answer::rows(named, state.tables.keys().filter(|name| name.starts_with(&prefix)).map(|name| row!["dw", name.as_str()]))
        } else if starts("CREATE TABLE [dw].[") {
            let name = between(statement, "[dw].[", "]").unwrap().to_owned();
            if state.tables.contains_key(&name) {
                return Answer::error(2714, format!("There is already an object named '{name}' in the database."));
            }
            let id = self.id();
            self.state.tables.insert(name, id);
            Answer::done()
        } else if starts("DELETE FROM [link_operator].[link_chunks]") && has("SET [run] = ") {
            let record = number(statement, "[record] = ").unwrap();
            state.chunks.clear();
            (state.progress, state.exact) = (Some((number(statement, "[run] = ").unwrap(), record, record)), false);
            Answer::count(1)
        } else if starts("DELETE FROM [link_operator].[link_chunks]") {
            (state.claim, state.progress, state.exact, state.placed, state.placing) = (None, None, false, None, None);
            state.chunks.clear();
            Answer::count(1)
        } else if has("SELECT [placing]") {
            Answer::rows(numbers(&["placing"]), state.claim.iter().map(|_| row![state.placing]))
        } else if has("SET [placing] = NULL") {
            state.placing = None;
            Answer::count(1)
        } else if has("SET [placing] = ") {
            let fits = self.of(statement) && !self.state.exact && number(statement, "[record] = ") == self.state.progress.map(|p| p.2);
            if fits {
                self.state.placing = number(statement, "[placing] = ");
            }
            Answer::count(u64::from(fits))
        } else if has("SET [placed] = ") {
            state.placed = number(statement, "[placed] = ");
            Answer::count(1)
        } else if starts("SELECT 1 FROM [link_operator].[link_progress]") {
            ones(usize::from(self.of(statement) && !self.state.exact))
        } else if starts("SELECT 1 FROM [link_operator].[link_chunks]") {
            ones(usize::from(self.of(statement) && number(statement, "[chunk] = ").is_some_and(|chunk| self.state.chunks.contains(&chunk))))
        } else if starts("SELECT [chunk]") {
            Answer::rows(numbers(&["chunk"]), state.chunks.iter().map(|chunk| row![*chunk]))
        } else if has("SET [updated_at] = SYSDATETIMEOFFSET() WHERE") {
            Answer::count(u64::from(self.of(statement) && !self.state.exact))
        } else if starts("INSERT INTO [link_operator].[link_chunks]") {
            let chunk = statement.trim_end_matches(')').rsplit(", ").next().and_then(|chunk| chunk.parse().ok()).unwrap();
            state.chunks.insert(chunk);
            Answer::count(1)
        } else if starts("UPDATE [link_operator].[link_progress] SET [record] = ") {
            // Of several tables at once, all are at the same place here.
            let from = number(statement.rsplit(" AND [record] = ").next().unwrap(), "");
            let exact = statement.contains("AND [exact] = 1");
            let (is_of, now) = (self.of(statement), self.state.progress);
            let fits = is_of && from == now.map(|p| p.2) && exact == self.state.exact;
            if fits {
                let (run, incarnation, _) = now.unwrap();
                self.state.progress = Some((run, incarnation, number(statement, "SET [record] = ").unwrap()));
                self.state.exact |= statement.contains("[exact] = 1, ");
            }
            Answer::count(u64::from(fits))
        } else if starts("UPDATE [link_operator].") {
            Answer::count(1)
        } else if starts("INSERT INTO [link_operator].[link_made]") {
            let (id, mark) = (number(statement, "VALUES (").unwrap(), between(statement, "N'", "'").unwrap());
            state.marks.insert(id, mark.to_owned());
            Answer::count(1)
        } else if starts("DELETE FROM [link_operator].[link_made]") {
            state.marks.remove(&number(statement, "[object_id] = ").unwrap());
            Answer::count(1)
        } else if has("FROM sys.columns") {
            ones(usize::from(between(statement, "[name] = N'", "'").is_some_and(|name| state.columns.contains(name))))
        } else if has("FROM [link_operator].[link_columns]") && starts("SELECT") {
            ones(usize::from(between(statement, "[column_name] = N'", "'").is_some_and(|name| state.noted.contains(name))))
        } else if starts("INSERT INTO [link_operator].[link_columns]") {
            let name = statement.rsplit("N'").next().unwrap().trim_end_matches("')").to_owned();
            state.noted.insert(name);
            Answer::count(1)
        } else if starts("DELETE FROM [link_operator].[link_columns]") {
            state.noted.clear();
            Answer::count(1)
        } else if starts("ALTER TABLE ") {
            state.columns.insert(between(statement, " ADD [", "]").unwrap().to_owned());
            Answer::done()
        } else if starts("UPDATE #link_upserts") {
            state.moves.push(statement.to_owned());
            Answer::count(1)
        } else if starts("SELECT TOP (1) CONVERT(nvarchar(4000), o.[k0])") {
            texts(["7".to_owned()])
        } else if has("HAVING COUNT(*) > 1") {
            texts(None)
        } else if has("sys.database_permissions") {
            let columns = ["s", "p", "g", "c"].map(|name| (name, Type::NVarChar(128)));
            Answer::rows(columns, [row!["G", "SELECT", "analyst", None::<&str>]])
        } else if starts("GRANT ") {
            Answer::done()
        } else if starts("RENAME OBJECT [dw].[") {
            let (from, to) = (between(statement, "[dw].[", "]").unwrap(), between(statement, " TO [", "]").unwrap());
            if state.tables.contains_key(to) {
                return Answer::error(15_335, "The new name is already in use.");
            }
            let Some(id) = state.tables.remove(from) else { return Answer::error(15_225, "No item by that name could be found.") };
            state.tables.insert(to.to_owned(), id);
            Answer::done()
        } else if starts("DROP TABLE [dw].[") {
            let gone = state.tables.remove(between(statement, "[dw].[", "]").unwrap());
            if gone.is_some() { Answer::done() } else { Answer::error(3701, "Cannot drop the table, because it does not exist.") }
        } else if starts("INSERT INTO [dw]") || starts("DELETE FROM [dw]") || starts("UPDATE [dw]") {
            state.moves.push(statement.to_owned());
            Answer::count(1)
        } else {
            self.wrong.push(statement.to_owned());
            Answer::error(50_000, format!("the pool is not acted for: {statement}"))
        }
    }
}

/// The connection drops.
pub fn drops() -> Answer {
    Answer::fault(Fault::Drop)
}
