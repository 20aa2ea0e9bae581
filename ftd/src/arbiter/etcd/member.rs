//! Members of an etcd by their addresses.
//!
//! Names are looked up once, before anything depends on it: a name service may be away when a host is lost, and
//! the C library needs system calls for it that a running ftd does without.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};

use super::GatewayError;

/// Most addresses that are kept of one name.
const ADDRESSES_MAX: usize = 4;

/// Where a member is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// As people named it, and where that is.
    pub(super) name: String,
    /// `http://ADDRESS:PORT`.
    pub(super) url: String,
}

/// Where the `endpoints` (`http://HOST:PORT`) are. Those whose name is not known are left out, with a warning.
///
/// # Errors
/// [`GatewayError::Unknown`] if none is known.
pub(super) fn find(endpoints: &[String]) -> Result<Vec<Member>, GatewayError> {
    find_by(endpoints, |authority| {
        Ok(authority.to_socket_addrs()?.collect())
    })
}

fn find_by(
    endpoints: &[String],
    look_up: impl Fn(&str) -> io::Result<Vec<SocketAddr>>,
) -> Result<Vec<Member>, GatewayError> {
    let mut members: Vec<Member> = Vec::new();
    let mut unknown = None;
    for endpoint in endpoints {
        let authority = endpoint.strip_prefix("http://").unwrap_or(endpoint);
        let addresses = look_up(authority).and_then(|found| match found.is_empty() {
            true => Err(io::Error::other("the name has no address")),
            false => Ok(found),
        });
        match addresses {
            Ok(addresses) => members.extend(addresses.into_iter().take(ADDRESSES_MAX).map(
                |address| Member {
                    name: match authority == address.to_string() {
                        true => endpoint.clone(),
                        false => format!("{endpoint} ({address})"),
                    },
                    url: format!("http://{address}"),
                },
            )),
            Err(source) => {
                tracing::warn!("{endpoint} is left out, its name is not known: {source}");
                let endpoint = endpoint.clone();
                unknown = Some(GatewayError::Unknown { endpoint, source });
            }
        }
    }
    match unknown {
        Some(error) if members.is_empty() => Err(error),
        _ => Ok(members),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_up(authority: &str) -> io::Result<Vec<SocketAddr>> {
        match authority {
            "both:2379" => Ok(["[::1]:2379", "127.0.0.1:2379"]
                .map(|address| address.parse().unwrap())
                .into()),
            "none:2379" => Ok(Vec::new()),
            "far:2379" => Err(io::Error::other("no such name")),
            address => Ok(vec![address.parse().unwrap()]),
        }
    }

    fn found(endpoints: &[&str]) -> Result<Vec<(String, String)>, GatewayError> {
        let endpoints: Vec<String> = endpoints
            .iter()
            .map(|name| format!("http://{name}"))
            .collect();
        let members = find_by(&endpoints, look_up)?;
        Ok(members
            .into_iter()
            .map(|member| (member.name, member.url))
            .collect())
    }

    #[test]
    fn each_address_of_a_name_is_one_to_ask() {
        let pair = |name: &str, url: &str| (name.to_owned(), url.to_owned());
        assert_eq!(
            found(&["both:2379", "far:2379", "192.0.2.1:1"]).unwrap(),
            [
                pair("http://both:2379 ([::1]:2379)", "http://[::1]:2379"),
                pair("http://both:2379 (127.0.0.1:2379)", "http://127.0.0.1:2379"),
                pair("http://192.0.2.1:1", "http://192.0.2.1:1"),
            ]
        );
    }

    #[test]
    fn names_that_nobody_knows_are_told() {
        for name in ["far:2379", "none:2379"] {
            let error = found(&[name]).unwrap_err();
            assert!(matches!(error, GatewayError::Unknown { .. }), "{error}");
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
