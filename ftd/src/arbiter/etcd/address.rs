//! How an etcd is named: `etcd:http://HOST:2379,http://HOST2:2379/PREFIX`.

/// What the name of shared storage in etcd begins with.
pub const SCHEME: &str = "etcd:";
/// Where keys are if the name does not say.
const PREFIX: &str = "/ftd";
/// Most members that are named.
const ENDPOINTS_MAX: usize = 9;

/// Where an etcd is, and where in it the keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `http://HOST:PORT` of its members.
    pub endpoints: Vec<String>,
    /// What keys begin with; begins with a slash and does not end in one.
    pub prefix: String,
}

impl Address {
    /// Whether that is the name of an etcd at all.
    pub fn is_etcd(name: &str) -> bool {
        name.starts_with(SCHEME)
    }

    /// Takes a name apart.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(name: &str) -> Result<Address, &'static str> {
        let members = name
            .strip_prefix(SCHEME)
            .ok_or("it does not begin with etcd:")?;
        if members.is_empty() {
            return Err("it names no member");
        }
        let mut endpoints = Vec::new();
        let mut prefix = None;
        for member in members.split(',') {
            if prefix.is_some() {
                return Err("the prefix of the keys comes last, behind all members");
            }
            let member = member
                .strip_prefix("http://")
                .ok_or("each member begins with http:// (TLS is not supported)")?;
            let (authority, path) = member.split_once('/').unwrap_or((member, ""));
            check_authority(authority)?;
            endpoints.push(format!("http://{authority}"));
            let path = path.trim_matches('/');
            if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err("the prefix of the keys is letters, digits and signs");
            }
            prefix = (!path.is_empty()).then(|| format!("/{path}"));
        }
        if endpoints.len() > ENDPOINTS_MAX {
            return Err("it names more than 9 members");
        }
        Ok(Address {
            endpoints,
            prefix: prefix.unwrap_or_else(|| PREFIX.to_owned()),
        })
    }
}

fn check_authority(authority: &str) -> Result<(), &'static str> {
    let (host, port) = authority
        .rsplit_once(':')
        .ok_or("each member has a port, 2379 mostly")?;
    let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    if host.is_empty() || !host.bytes().all(legal) {
        return Err("a member's host is a name or an address");
    }
    if !is_port {
        return Err("a member's port is a number from 1 to 65535");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Address;

    #[test]
    fn members_and_prefix_are_told_apart() {
        let parsed = |name| {
            let Address { endpoints, prefix } = Address::parse(name).unwrap();
            (endpoints.join(" "), prefix)
        };
        let one = ("http://east:2379".to_owned(), "/ftd".to_owned());
        assert_eq!(parsed("etcd:http://east:2379"), one);
        assert_eq!(parsed("etcd:http://east:2379/"), one);
        assert_eq!(
            parsed("etcd:http://10.0.0.1:2379,http://[fd00::2]:1/a/b/"),
            (
                "http://10.0.0.1:2379 http://[fd00::2]:1".to_owned(),
                "/a/b".to_owned()
            )
        );
    }

    #[test]
    fn what_is_no_address_is_named() {
        for (name, words) in [
            ("/srv/shared", "etcd:"),
            ("etcd:", "no member"),
            ("etcd:east:2379", "http://"),
            ("etcd:https://east:2379", "TLS"),
            ("etcd:http://east", "port"),
            ("etcd:http://east:0", "65535"),
            ("etcd:http://east:70000", "65535"),
            ("etcd:http://:2379", "host"),
            ("etcd:http://a b:2379", "host"),
            ("etcd:http://user@east:2379", "host"),
            ("etcd:http://east:2379/x,http://west:2379", "last"),
            ("etcd:http://east:2379/x y", "prefix"),
        ] {
            let why = Address::parse(name).unwrap_err();
            assert!(why.contains(words), "{name}: {why}");
        }
        let many = format!("etcd:{}", ["http://east:1"; 10].join(","));
        assert!(Address::parse(&many).is_err());
    }
}
