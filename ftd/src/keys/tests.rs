use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::make::{AUTHORITY, make};
use super::*;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn each_host_has_a_file_that_only_its_owner_reads() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("new/keys");
    let made = make(&out, &names(&["west", "east.example"])).unwrap();
    assert!(!made.authority_was_there);
    assert_eq!(
        made.hosts,
        [out.join("west.pem"), out.join("east.example.pem")]
    );
    assert_eq!(mode(&out), 0o700);
    for path in made.hosts.iter().chain([&made.authority]) {
        assert_eq!(mode(path), 0o600, "{}", path.display());
    }
    for path in &made.hosts {
        let keys = HostKeys::read(path).unwrap();
        assert!(keys.dials().is_ok() && keys.accepts().is_ok());
    }
}

#[test]
fn a_third_host_is_signed_by_the_same_authority() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path();
    make(out, &names(&["west", "east"])).unwrap();
    let authority = fs::read(out.join(AUTHORITY)).unwrap();
    let made = make(out, &names(&["north"])).unwrap();
    assert!(made.authority_was_there);
    assert_eq!(fs::read(out.join(AUTHORITY)).unwrap(), authority);
    let last = |name: &str| {
        let text = fs::read(out.join(name)).unwrap();
        Parts::find(&text).unwrap().authority
    };
    // The same but for the signature, which is another each time: both are checked by the key in it.
    assert!(HostKeys::read(&out.join("north.pem")).is_ok());
    assert_eq!(last("west.pem"), last("east.pem"));
}

#[test]
fn nothing_is_overwritten_and_names_are_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path();
    make(out, &names(&["west"])).unwrap();
    let before = fs::read(out.join("west.pem")).unwrap();
    let error = make(out, &names(&["east", "west"])).unwrap_err();
    assert!(matches!(error, KeysError::Exists { .. }), "{error}");
    assert_eq!(fs::read(out.join("west.pem")).unwrap(), before);
    assert!(!out.join("east.pem").exists());
    for bad in ["", "a/b", ".hidden", "ä", "two words", &"x".repeat(65)] {
        let error = make(out, &names(&[bad])).unwrap_err();
        assert!(matches!(error, KeysError::Name(_)), "{bad}: {error}");
    }
    let error = make(out, &names(&["a", "a"])).unwrap_err();
    assert!(matches!(error, KeysError::Twice(_)), "{error}");
}

#[test]
fn what_is_no_key_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    make(directory.path(), &names(&["west", "east"])).unwrap();
    let refused = |path: &Path| HostKeys::read(path).unwrap_err().to_string();

    let said = refused(&at("nowhere.pem"));
    assert!(said.contains("nowhere.pem"), "{said}");
    let said = refused(&at(AUTHORITY));
    assert!(said.contains("stays off the hosts"), "{said}");
    fs::write(at("text.pem"), "hello").unwrap();
    fs::set_permissions(at("text.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    let said = refused(&at("text.pem"));
    assert!(said.contains("no private key"), "{said}");

    let west = fs::read_to_string(at("west.pem")).unwrap();
    let east = fs::read_to_string(at("east.pem")).unwrap();
    let certificates = west.find("-----BEGIN CERTIFICATE").unwrap();
    let own = east.find("-----BEGIN CERTIFICATE").unwrap();
    fs::write(
        at("text.pem"),
        format!("{}{}", &west[..certificates], &east[own..]),
    )
    .unwrap();
    let said = refused(&at("text.pem"));
    assert!(said.contains("cannot be used"), "{said}");
    fs::write(at("text.pem"), format!("{west}{east}")).unwrap();
    assert!(refused(&at("text.pem")).contains("2 private keys"));

    fs::set_permissions(at("west.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    let said = refused(&at("west.pem"));
    assert!(said.contains("chmod 600"), "{said}");
    // A group of the daemon's may.
    fs::set_permissions(at("west.pem"), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(HostKeys::read(&at("west.pem")).is_ok());
}
