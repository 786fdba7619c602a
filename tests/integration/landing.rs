//! The landing zone against a real Azurite and a real folder: the same promises on both, and faults by their names.

use std::path::Path;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use link_operator::{
    api::{
        fault::Check,
        zone::{ClaimZone, ZoneStore},
    },
    landing::{Created, Error, Zone},
    secrets::Secrets,
};

use crate::support::azurite::{self, ALL, Azurite};

const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// A folder of Secrets with one token in it.
struct Token {
    folder: tempfile::TempDir,
}

impl Token {
    fn new(token: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sas")).unwrap();
        let secret = Self { folder };
        secret.write(token);
        secret
    }

    fn write(&self, token: &str) {
        std::fs::write(self.folder.path().join("sas/token"), token).unwrap();
    }

    fn secrets(&self) -> Secrets {
        Secrets::new(self.folder.path())
    }
}

fn open(store: &ZoneStore, token: &Token, link: Option<&str>) -> Zone {
    Zone::open(store, &token.secrets(), Path::new("/nowhere"), link).unwrap()
}

fn claim(folder: &str) -> ZoneStore {
    ZoneStore { azure: None, persistent_volume_claim: Some(ClaimZone { claim_name: "files".to_owned(), folder: folder.to_owned() }) }
}

fn reason<T: std::fmt::Debug>(result: Result<T, Error>) -> &'static str {
    (&result.unwrap_err()).into()
}

fn fault_of<'a>(checks: &'a [Check], name: &str) -> Option<&'a str> {
    let check = checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("no {name} in {checks:?}"));
    check.fault.as_ref().map(|fault| fault.reason.as_str())
}

/// What every store must do.
async fn keeps_its_promises(zone: &Zone) {
    let bytes = Bytes::from_static;
    // Plain puts replace.
    zone.put("_link/a.bin", bytes(b"one")).await.unwrap();
    zone.put("_link/a.bin", bytes(b"two")).await.unwrap();
    assert_eq!(zone.get("_link/a.bin").await.unwrap(), Some(bytes(b"two")));
    assert_eq!(zone.get("_link/none").await.unwrap(), None);
    assert!(zone.exists("_link/a.bin").await.unwrap() && !zone.exists("_link/none").await.unwrap() && !zone.exists("_link").await.unwrap());

    // Creates do not; who comes again with the same bytes meets its own work.
    assert_eq!(zone.create("_link/log/1.json", bytes(b"mine 7f")).await.unwrap(), Created::Ours);
    assert_eq!(zone.create("_link/log/1.json", bytes(b"mine 7f")).await.unwrap(), Created::Ours);
    assert_eq!(zone.create("_link/log/1.json", bytes(b"late 3c")).await.unwrap(), Created::Theirs(bytes(b"mine 7f")));
    assert_eq!(zone.get("_link/log/1.json").await.unwrap(), Some(bytes(b"mine 7f")));
    assert_eq!(zone.create("_link/empty", Bytes::new()).await.unwrap(), Created::Ours);
    assert!(zone.exists("_link/empty").await.unwrap());

    // Of many at once, exactly one wins, and all know which.
    let attempts = (0..16).map(|i| {
        let zone = zone.clone();
        async move { zone.create("_link/log/2.json", Bytes::from(format!("writer {i}"))).await.unwrap() }
    });
    let outcomes = futures::future::join_all(attempts).await;
    let won = zone.get("_link/log/2.json").await.unwrap().unwrap();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Created::Ours).count(), 1, "{outcomes:?}");
    assert!(outcomes.iter().all(|outcome| *outcome == Created::Ours || *outcome == Created::Theirs(won.clone())));

    // Names beyond ASCII, and folders that begin alike.
    zone.put("_link/data/ä b%2F/1.parquet", bytes(b"x")).await.unwrap();
    zone.put("_link/data2/1.parquet", bytes(b"x")).await.unwrap();
    assert_eq!(zone.list("_link/data").await.unwrap(), ["_link/data/ä b%2F/1.parquet"]);
    assert_eq!(zone.list("_link/log/").await.unwrap(), ["_link/log/1.json", "_link/log/2.json"]);
    assert_eq!(zone.list("_link/nothing").await.unwrap(), [""; 0]);
    assert_eq!(zone.list("").await.unwrap().len(), 6);
    assert_eq!(reason(zone.put("../outside", bytes(b"x")).await), "ZonePathInvalid");

    zone.delete(&["_link/log/1.json".to_owned(), "_link/gone".to_owned()]).await.unwrap();
    assert_eq!(zone.list("_link/log").await.unwrap(), ["_link/log/2.json"]);
    zone.delete_folder("_link/data").await.unwrap();
    assert_eq!(zone.list("_link").await.unwrap(), ["_link/a.bin", "_link/data2/1.parquet", "_link/empty", "_link/log/2.json"]);

    let checks = zone.checks().await;
    assert!(checks.iter().all(|check| check.fault.is_none()), "{checks:?}");
    assert_eq!(zone.list("_probe").await.unwrap(), [""; 0]);
    zone.delete_folder("").await.unwrap();
    zone.delete_folder("").await.unwrap();
    assert_eq!(zone.list("").await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_container_keeps_its_promises() {
    let server = Azurite::start().await;
    server.create_container("staging").await;
    let token = Token::new(&azurite::sas("staging", ALL, HOUR));
    let store = server.zone("staging", "sas");
    keeps_its_promises(&open(&store, &token, Some("ns.shop"))).await;

    // A link's folder goes, its neighbour's stays.
    let (one, other) = (open(&store, &token, Some("ns.a")), open(&store, &token, Some("ns.ab")));
    one.put("x", Bytes::from_static(b"1")).await.unwrap();
    other.put("x", Bytes::from_static(b"2")).await.unwrap();
    one.delete_folder("").await.unwrap();
    assert_eq!(open(&store, &token, None).list("").await.unwrap(), ["ns.ab/x"]);
    assert_eq!(reason(open(&store, &token, None).delete_folder("").await), "ZonePathInvalid");
}

#[tokio::test]
async fn a_volume_keeps_its_promises() {
    let volume = tempfile::tempdir().unwrap();
    let secrets = Secrets::new("/nowhere");
    let zone = Zone::open(&claim("deep/er"), &secrets, volume.path(), Some("ns.shop")).unwrap();
    keeps_its_promises(&zone).await;
    assert!(zone.checks().await.iter().all(|check| check.name != "CredentialValid"));

    // Nothing stays behind of what was written aside, and nothing leaves the folder.
    zone.create("a", Bytes::from_static(b"1")).await.unwrap();
    zone.create("a", Bytes::from_static(b"2")).await.unwrap();
    let aside = volume.path().join("deep/er/ns.shop/_tmp");
    assert_eq!(std::fs::read_dir(aside).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(volume.path()).unwrap().count(), 1);
    for folder in ["..", "a/../b", "a//b"] {
        assert_eq!(reason(Zone::open(&claim(folder), &secrets, volume.path(), None).map(drop)), "ZonePathInvalid", "{folder}");
    }
    assert_eq!(reason(Zone::open(&claim(""), &secrets, volume.path(), Some("a/b")).map(drop)), "ZonePathInvalid");
}

#[tokio::test]
async fn a_volume_that_goes_away_is_no_empty_zone() {
    let parent = tempfile::tempdir().unwrap();
    let volume = parent.path().join("mount");
    let secrets = Secrets::new("/nowhere");
    assert_eq!(reason(Zone::open(&claim(""), &secrets, &volume, Some("l")).map(drop)), "ZoneNotFound");
    std::fs::create_dir(&volume).unwrap();
    let zone = Zone::open(&claim(""), &secrets, &volume, Some("l")).unwrap();
    zone.put("x", Bytes::from_static(b"1")).await.unwrap();
    std::fs::rename(&volume, parent.path().join("gone")).unwrap();
    assert_eq!(reason(zone.get("x").await), "ZoneNotFound");
    assert_eq!(reason(zone.exists("x").await), "ZoneNotFound");
    assert_eq!(reason(zone.list("").await), "ZoneNotFound");
    assert_eq!(reason(zone.put("x", Bytes::new()).await), "ZoneNotFound");
    assert!(!volume.exists());
}

#[tokio::test]
async fn names_what_is_wrong_with_a_credential() {
    let server = Azurite::start().await;
    server.create_container("staging").await;
    let store = server.zone("staging", "sas");
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    let good = azurite::sas("staging", ALL, HOUR);
    let foreign = azurite::sas("other", ALL, HOUR);

    for (token, expected) in [
        (azurite::sas_between("staging", ALL, now - 2 * HOUR, now - HOUR), "CredentialExpired"),
        (azurite::sas_between("staging", ALL, now + HOUR, now + 2 * HOUR), "CredentialNotYetValid"),
        (foreign, "CredentialRejected"),
        (good.replace("sig=", "sig=A"), "CredentialRejected"),
        ("hunter2".to_owned(), "CredentialMalformed"),
    ] {
        let secret = Token::new(&token);
        let zone = open(&store, &secret, Some("ns.shop"));
        let put = zone.put("x", Bytes::from_static(b"1")).await;
        let message = format!("{put:?}");
        assert_eq!(reason(put), expected, "{token}");
        let signature = token.split("sig=").last().unwrap();
        assert!(!message.contains(signature), "{message}");
        assert_eq!(reason(zone.get("x").await), expected);
        assert_eq!(reason(zone.exists("x").await), expected);
        assert_eq!(reason(zone.list("").await), expected);
        assert_eq!(reason(zone.create("x", Bytes::new()).await), expected);
        assert_eq!(reason(zone.delete(&["x".to_owned()]).await), expected);
        let checks = zone.checks().await;
        for name in ["CredentialValid", "ZoneReadable", "ZoneWritable"] {
            assert_eq!(fault_of(&checks, name), Some(expected));
        }
    }
}

#[tokio::test]
async fn names_a_missing_right() {
    let server = Azurite::start().await;
    server.create_container("staging").await;
    let store = server.zone("staging", "sas");
    for (rights, readable, writable) in [("racwd", false, true), ("racwl", true, false), ("rl", true, false), ("cwd", false, true)] {
        let secret = Token::new(&azurite::sas("staging", rights, HOUR));
        let checks = open(&store, &secret, Some("ns.shop")).checks().await;
        let denied = |passed: bool| (!passed).then_some("ZonePermissionDenied");
        // Without read nobody can tell whose object a create met, so it is not writable either.
        let writable = writable && rights.contains('r');
        assert_eq!(fault_of(&checks, "ZoneReadable"), denied(readable), "{rights}: {checks:?}");
        assert_eq!(fault_of(&checks, "ZoneWritable"), denied(writable), "{rights}: {checks:?}");
        assert_eq!(fault_of(&checks, "CredentialValid"), None, "{rights}");
    }
}

#[tokio::test]
async fn a_rotated_token_is_used_without_reopening() {
    let server = Azurite::start().await;
    server.create_container("staging").await;
    let secret = Token::new(&azurite::sas("staging", ALL, -HOUR / 2));
    let zone = open(&server.zone("staging", "sas"), &secret, Some("ns.shop"));
    assert_eq!(reason(zone.put("x", Bytes::from_static(b"1")).await), "CredentialExpired");
    secret.write(&format!("?{}\n", azurite::sas("staging", ALL, HOUR)));
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    zone.put("x", Bytes::from_static(b"1")).await.unwrap();
    assert!(zone.credential_expiry().await.unwrap() > Timestamp::now());

    std::fs::remove_file(secret.folder.path().join("sas/token")).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    assert_eq!(reason(zone.get("x").await), "SecretMissing");
    std::fs::write(secret.folder.path().join("sas/other"), "").unwrap();
    assert_eq!(fault_of(&zone.checks().await, "CredentialValid"), Some("SecretKeyMissing"));
}

#[tokio::test]
async fn a_missing_container_and_a_dead_server_are_no_empty_zone() {
    let server = Azurite::start().await;
    let secret = Token::new(&azurite::sas("staging", ALL, HOUR));
    let store = server.zone("staging", "sas");
    let zone = open(&store, &secret, Some("ns.shop"));
    for outcome in [
        reason(zone.get("x").await),
        reason(zone.exists("x").await),
        reason(zone.list("").await),
        reason(zone.put("x", Bytes::new()).await),
        reason(zone.create("x", Bytes::new()).await),
    ] {
        assert_eq!(outcome, "ZoneContainerMissing");
    }
    assert_eq!(fault_of(&zone.checks().await, "ZoneWritable"), Some("ZoneContainerMissing"));
    server.create_container("staging").await;
    assert_eq!(zone.get("x").await.unwrap(), None);

    drop(server);
    let asked = std::time::Instant::now();
    let checks = zone.checks().await;
    assert_eq!(fault_of(&checks, "ZoneReadable"), Some("ZoneUnreachable"));
    assert_eq!(fault_of(&checks, "ZoneWritable"), Some("ZoneUnreachable"));
    assert_eq!(fault_of(&checks, "CredentialValid"), None);
    assert!(asked.elapsed().as_secs() < 8, "{:?}", asked.elapsed());
    let put = zone.put("x", Bytes::new()).await;
    assert!(asked.elapsed().as_secs() < 30 && !format!("{put:?}").contains("sig="), "{put:?}");
    assert_eq!(reason(put), "ZoneUnreachable");
}
