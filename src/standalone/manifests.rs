//! Manifests as a person writes them: files of YAML documents to links with their plans. But for reading files, pure.

use std::{fs, io, path::Path, sync::Arc};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Resource, ResourceExt};
use serde::{Deserialize, de::DeserializeOwned};
use serde_yaml::Value;

use super::{Error, grants, unreadable};
use crate::{
    api::{
        conditions::GROUP,
        integration_runtime::IntegrationRuntime,
        landing_zone::LandingZone,
        link_connection::{LinkConnection, LinkPhase, LinkState},
        link_table::LinkTable,
        plan::{Intent, Plan},
    },
    controller::{
        explain,
        link_connection::{
            lifecycle::Course,
            owned::owned_tables,
            plan,
            validate::{References, validate},
        },
        link_table::acceptance,
    },
    data::TableName,
    secrets::CONFIG_MAPS,
};

/// The namespace of a manifest that names none.
const NAMESPACE: &str = "default";

/// What a folder of manifests holds; documents of other kinds are left out.
#[derive(Default)]
pub struct Manifests {
    links: Vec<LinkConnection>,
    tables: Vec<Arc<LinkTable>>,
    zones: Vec<Arc<LandingZone>>,
    runtimes: Vec<Arc<IntegrationRuntime>>,
    secrets: Vec<Secret>,
    config_maps: Vec<ConfigMap>,
}

/// A link that is to run.
#[derive(Debug)]
pub struct Link {
    /// Its namespace and name.
    pub name: String,
    /// What to do; run and revision are not set.
    pub plan: Plan,
}

impl Manifests {
    /// Reads a file, or all .yaml and .yml files of a folder.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let failed = |error| unreadable(path, error);
        let mut files = vec![path.to_owned()];
        if path.is_dir() {
            let entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(failed)?;
            files = entries.into_iter().map(|entry| entry.path()).collect();
            files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml"));
            files.sort();
        }
        let mut manifests = Self::default();
        for file in files {
            let text = fs::read_to_string(&file).map_err(|error| unreadable(&file, error))?;
            manifests.add(&file.display().to_string(), &text)?;
        }
        Ok(manifests)
    }

    /// Takes in the documents of a file.
    fn add(&mut self, file: &str, text: &str) -> Result<(), Error> {
        for (number, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
            let at = format!("{file}, document {}", number + 1);
            let value = Value::deserialize(document).map_err(|error| invalid(&at, &error))?;
            let word = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let (version, kind) = (word("apiVersion"), word("kind"));
            let ours = version.split_once('/').is_some_and(|(group, _)| group == GROUP);
            match kind.as_str() {
                "LinkConnection" if ours => self.links.push(typed(&at, value)?),
                "LinkTable" if ours => self.tables.push(Arc::new(typed(&at, value)?)),
                "LandingZone" if ours => self.zones.push(Arc::new(typed(&at, value)?)),
                "IntegrationRuntime" if ours => self.runtimes.push(Arc::new(typed(&at, value)?)),
                _ if ours => return Err(invalid(&at, &format!("there is no kind {kind} in {version}"))),
                "Secret" if version == "v1" => self.secrets.push(secret(&at, value)?),
                "ConfigMap" if version == "v1" => self.config_maps.push(config_map(&at, value)?),
                _ => {}
            }
        }
        Ok(())
    }

    /// The links that are to run, with their plans.
    pub fn links(&self) -> Result<Vec<Link>, Error> {
        self.links.iter().filter(|link| link.spec.state == LinkState::Running).map(|link| self.link(link.clone())).collect()
    }

    /// The links that are to rest, each with the state that it is to be in.
    pub fn resting(&self) -> Vec<(String, LinkState)> {
        let resting = self.links.iter().filter(|link| link.spec.state != LinkState::Running);
        resting.map(|link| (full_name(link), link.spec.state)).collect()
    }

    /// All links, also those that are to rest.
    pub fn all_links(&self) -> Result<Vec<Link>, Error> {
        self.links.iter().map(|link| self.link(link.clone())).collect()
    }

    /// The script of the rights that a link needs for these tables, each in the source and in the target.
    pub fn grants_of(&self, link: &str, tables: &[(TableName, TableName)]) -> String {
        let named = |found: &&LinkConnection| full_name(found) == link;
        self.links.iter().find(named).map(|link| grants::script(link, tables, &self.secrets)).unwrap_or_default()
    }

    /// The script of the rights that the links need, of those that rest as well.
    pub fn grants(&self) -> String {
        let script = |link: &LinkConnection| {
            let mut tables: Vec<Arc<LinkTable>> = self.tables.iter().filter(|table| of(table, link)).cloned().collect();
            tables.extend(owned_tables(link, &tables, &[]).wanted.into_iter().map(Arc::new));
            let mut names: Vec<_> = tables.iter().map(|table| (table.spec.source_name(), table.spec.target_name())).collect();
            names.sort();
            grants::script(link, &names, &self.secrets)
        };
        self.links.iter().map(script).collect()
    }

    fn link(&self, mut link: LinkConnection) -> Result<Link, Error> {
        let namespace = link.namespace().unwrap_or_default();
        let name = full_name(&link);
        // Known again when it is started again, and never taken for an object of a cluster.
        link.metadata.uid = Some(format!("run:{name}"));
        let runtime = link.spec.compute.integration_runtime_ref.as_ref();
        let references = References {
            zone: find(&self.zones, &namespace, &link.spec.landing_zone_ref.name),
            runtime: runtime.and_then(|runtime| find(&self.runtimes, &namespace, &runtime.name)),
            claim: None,
        };
        let refused = |problem: String| Error::ManifestInvalid { at: format!("LinkConnection {name}"), problem };
        let validated = validate(&link, &references).map_err(|fault| refused(explain(&fault)))?;

        let mut tables: Vec<Arc<LinkTable>> = self.tables.iter().filter(|table| of(table, &link)).map(identified).collect();
        let owned = owned_tables(&link, &tables, &[]).wanted;
        tables.extend(owned.iter().map(identified));
        for table in &tables {
            if let Some(fault) = acceptance::refusal(table, &tables, &[], Some(&link)) {
                return Err(Error::ManifestInvalid { at: format!("LinkTable {}", table.name_any()), problem: explain(&fault) });
            }
        }
        let course = Course { phase: LinkPhase::Running, run: 1, workers: true, intent: Intent::Run, release: false, batch: None };
        // One process does all of it, with all of the link's cores.
        let cores = u32::try_from(link.spec.compute.core_count).unwrap_or(1);
        let plan = Plan { workers: 1, cores_per_worker: cores, ..plan::plan(&link, &validated, &course, &tables) };
        Ok(Link { name, plan })
    }

    /// Writes Secrets and ConfigMaps as pods have them mounted: a folder each, a file a key, below a folder for each namespace.
    pub fn write_secrets(&self, folder: &Path) -> io::Result<()> {
        for secret in &self.secrets {
            let folder = folder.join(secret.namespace().unwrap_or_default()).join(secret.name_any());
            fs::create_dir_all(&folder)?;
            for (key, value) in secret.data.iter().flatten() {
                fs::write(folder.join(key), &value.0)?;
            }
            for (key, value) in secret.string_data.iter().flatten() {
                fs::write(folder.join(key), value)?;
            }
        }
        for map in &self.config_maps {
            let folder = folder.join(map.namespace().unwrap_or_default()).join(CONFIG_MAPS).join(map.name_any());
            fs::create_dir_all(&folder)?;
            for (key, value) in map.data.iter().flatten() {
                fs::write(folder.join(key), value)?;
            }
        }
        Ok(())
    }
}

fn full_name(link: &LinkConnection) -> String {
    format!("{}/{}", link.namespace().unwrap_or_default(), link.name_any())
}

fn typed<K: DeserializeOwned + Resource>(at: &str, value: Value) -> Result<K, Error> {
    named(at, serde_yaml::from_value(value).map_err(|error| invalid(at, &error))?)
}

fn named<K: Resource>(at: &str, mut object: K) -> Result<K, Error> {
    let meta = object.meta_mut();
    if meta.name.as_deref().unwrap_or_default().is_empty() {
        return Err(invalid(at, &"metadata.name is missing"));
    }
    let names = [meta.name.as_deref(), meta.namespace.as_deref()];
    if let Some(name) = names.into_iter().flatten().find(|name| !is_path_segment(name)) {
        return Err(invalid(at, &format!("{name:?} is no name of an object or a namespace")));
    }
    meta.namespace.get_or_insert_with(|| NAMESPACE.to_owned());
    Ok(object)
}

/// Whether it names a file within a folder, as the names of objects and the keys of Secrets do.
fn is_path_segment(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.chars().all(|char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.'))
}

/// A Secret, of which nothing is told when it is none: the problem would name a value.
fn secret(at: &str, value: Value) -> Result<Secret, Error> {
    let problem = "not a Secret: each value of stringData must be a string (quote numbers), each of data a string in base64";
    let secret: Secret = named(at, serde_yaml::from_value(value).map_err(|_| invalid(at, &problem))?)?;
    let keys = secret.data.iter().flat_map(|data| data.keys()).chain(secret.string_data.iter().flat_map(|data| data.keys()));
    are_keys(at, keys)?;
    Ok(secret)
}

fn config_map(at: &str, value: Value) -> Result<ConfigMap, Error> {
    let map: ConfigMap = typed(at, value)?;
    are_keys(at, map.data.iter().flat_map(|data| data.keys()))?;
    Ok(map)
}

/// Each key becomes a file's name.
fn are_keys<'a>(at: &str, mut keys: impl Iterator<Item = &'a String>) -> Result<(), Error> {
    let wrong = keys.find(|key| !is_path_segment(key));
    wrong.map_or(Ok(()), |key| Err(invalid(at, &format!("{key:?} is no key: it may have letters, digits, '-', '_' and '.'"))))
}

fn invalid(at: &str, problem: &dyn std::fmt::Display) -> Error {
    Error::ManifestInvalid { at: at.to_owned(), problem: problem.to_string() }
}

fn find<K: Resource>(objects: &[Arc<K>], namespace: &str, name: &str) -> Option<Arc<K>> {
    objects.iter().find(|object| object.namespace().as_deref() == Some(namespace) && object.name_any() == name).cloned()
}

fn of(table: &LinkTable, link: &LinkConnection) -> bool {
    table.namespace() == link.namespace() && table.spec.link_connection_ref.name == link.name_any()
}

/// The table with an identity that lasts from start to start.
fn identified(table: &(impl std::borrow::Borrow<LinkTable> + ?Sized)) -> Arc<LinkTable> {
    let mut table: LinkTable = table.borrow().clone();
    table.metadata.uid = Some(format!("run:{}/{}", table.namespace().unwrap_or_default(), table.name_any()));
    Arc::new(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: &str = "
apiVersion: v1
kind: Secret
metadata: {name: app}
stringData: {username: me, password: secret}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: app}
data: {ca.crt: PEM}
---
apiVersion: link-operator.io/v1alpha1
kind: LandingZone
metadata: {name: staging}
spec: {persistentVolumeClaim: {claimName: disk}}
---
apiVersion: link-operator.io/v1alpha1
kind: LinkConnection
metadata: {name: shop}
spec:
  source: {postgresql: {host: a, database: shop, auth: {password: {secretRef: {name: app}}}}}
  target: {postgresql: {host: b, database: dw, auth: {password: {secretRef: {name: app}}}}}
  landingZoneRef: {name: staging}
  compute: {coreCount: 8}
  tables: [{schemaName: public, tableName: orders}]
---
apiVersion: link-operator.io/v1alpha1
kind: LinkTable
metadata: {name: mine}
spec: {linkConnectionRef: {name: shop}, source: {schemaName: public, tableName: customers}}
---
apiVersion: v1
kind: Namespace
metadata: {name: other}
";

    fn read(text: &str) -> Result<Manifests, Error> {
        let mut manifests = Manifests::default();
        manifests.add("link.yaml", text).map(|()| manifests)
    }

    #[test]
    fn a_secret_that_is_none_is_not_repeated() {
        let mut manifests = Manifests::default();
        let wrong = manifests.add("a.yaml", &LINK.replace("password: secret}", "password: 84731962}")).unwrap_err().to_string();
        assert!(wrong.contains("stringData") && wrong.contains("quote") && !wrong.contains("84731962"), "{wrong}");
    }

    #[test]
    fn names_and_keys_lead_out_of_no_folder() {
        for (good, bad) in [
            ("{username: me", "{'../../out': me"),
            ("{ca.crt: PEM}", "{/etc/out: PEM}"),
            ("Secret\nmetadata: {name: app}", "Secret\nmetadata: {name: ..}"),
            ("ConfigMap\nmetadata: {name: app}", "ConfigMap\nmetadata: {name: app, namespace: a/b}"),
        ] {
            assert!(LINK.contains(good), "{good}");
            let wrong = Manifests::default().add("a.yaml", &LINK.replace(good, bad)).unwrap_err().to_string();
            assert!(wrong.contains(" is no "), "{wrong}");
        }
    }

    #[test]
    fn a_link_and_its_tables_become_a_plan_of_one_worker() {
        let links = read(LINK).unwrap().links().unwrap();
        let plan = &links[0].plan;
        assert_eq!(
            (links[0].name.as_str(), plan.link.link_id.as_str(), plan.workers, plan.cores_per_worker),
            ("default/shop", "default.shop", 1, 8)
        );
        let tables: Vec<_> =
            plan.tables.iter().map(|table| (table.source.table_name.as_str(), table.uid.starts_with("run:default/"))).collect();
        assert_eq!(tables, [("customers", true), ("orders", true)]);
        // The same when it is read again: it is the same link.
        assert_eq!(read(LINK).unwrap().links().unwrap()[0].plan, *plan);
        let paused = read(&LINK.replace("coreCount: 8}", "coreCount: 8}\n  state: Paused")).unwrap();
        assert!(paused.links().unwrap().is_empty() && read(LINK).unwrap().resting().is_empty());
        assert_eq!(paused.resting(), [("default/shop".to_owned(), LinkState::Paused)]);
    }

    #[test]
    fn secrets_are_files() {
        let folder = tempfile::tempdir().unwrap();
        read(LINK).unwrap().write_secrets(folder.path()).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("default/app/password")).unwrap(), "secret");
        assert_eq!(fs::read_to_string(folder.path().join("default/.configmaps/app/ca.crt")).unwrap(), "PEM");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let problem = |text: &str| read(text).and_then(|manifests| manifests.links()).unwrap_err().to_string();
        let typo = problem(&LINK.replace("landingZoneRef", "landingZone"));
        assert!(typo.contains("link.yaml, document 4") && typo.contains("landingZone"), "{typo}");
        assert!(problem(&LINK.replace("kind: LinkTable", "kind: LinkTabel")).contains("no kind LinkTabel"));
        assert!(
            problem(&LINK.replace("{name: staging}\nspec: {pers", "{name: other}\nspec: {pers"))
                .contains("LandingZone staging does not exist")
        );
        let rival = "apiVersion: link-operator.io/v1alpha1\nkind: LinkTable\nmetadata: {name: rival}
spec: {linkConnectionRef: {name: shop}, source: {schemaName: public, tableName: customers}}";
        let twice = problem(&format!("{LINK}---\n{rival}"));
        assert!(twice.contains("LinkTable rival") && twice.contains("is linked by LinkTable mine"), "{twice}");
    }
}
