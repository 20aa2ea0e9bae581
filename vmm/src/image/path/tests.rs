use std::collections::HashMap;

use super::*;

/// A volume that is only a list of nodes.
struct Tree(HashMap<&'static str, Node>);

fn tree(links: &[(&'static str, &str)]) -> Tree {
    let mut nodes = HashMap::from([
        ("/boot", Node::Dir),
        ("/boot/vmlinuz", Node::File),
        ("/a", Node::Dir),
    ]);
    for (path, target) in links {
        nodes.insert(path, Node::Link((*target).into()));
    }
    Tree(nodes)
}

impl Volume for Tree {
    fn filesystem(&self) -> &'static str {
        "test"
    }

    fn uuid(&self) -> String {
        String::new()
    }

    fn node(&self, path: &str) -> Result<Option<Node>, VolumeError> {
        Ok(self.0.get(path).cloned())
    }

    fn names(&self, _: &str) -> Result<Vec<String>, VolumeError> {
        Ok(Vec::new())
    }

    fn read(&self, _: &str, _: u64) -> Result<Vec<u8>, VolumeError> {
        Ok(Vec::new())
    }
}

fn found(path: &str) -> Resolved {
    Resolved::Found(path.into(), Node::File)
}

#[test]
fn links_are_followed() {
    let volume = tree(&[
        ("/vmlinuz", "boot/vmlinuz"),
        ("/a/up", "../vmlinuz"),
        ("/a/dir", "/boot"),
    ]);
    for path in ["/vmlinuz", "/a/up", "/a/dir/vmlinuz", "//boot/./vmlinuz"] {
        assert_eq!(resolve(&volume, path), Ok(found("/boot/vmlinuz")), "{path}");
    }
    assert_eq!(
        resolve(&volume, "/"),
        Ok(Resolved::Found("/".into(), Node::Dir))
    );
}

#[test]
fn a_link_into_nothing_says_where_it_leads() {
    let volume = tree(&[("/vmlinuz", "boot/sub/../vmlinuz-6")]);
    assert_eq!(
        resolve(&volume, "/vmlinuz"),
        Ok(Resolved::Absent("/boot/vmlinuz-6".into()))
    );
}

#[test]
fn a_circle_of_links_is_an_error() {
    let volume = tree(&[("/x", "y"), ("/y", "x")]);
    assert!(resolve(&volume, "/x").is_err());
}

#[test]
fn names_that_are_too_long_are_nowhere() {
    let long = "n".repeat(300);
    let resolved = resolve(&tree(&[]), &format!("/boot/{long}"));
    assert!(matches!(resolved, Ok(Resolved::Absent(_))));
}
