//! Who may speak on the logging channel: hosts that have a key of the pair.
//!
//! * [`make`]: `ftd keys`: the pair's authority, and a key for each host.
//!
//! A host's file holds all that it needs: its private key, its certificate, and the certificate of the authority
//! that signed it. Whoever shows a certificate of the same authority is of the pair; names and addresses count
//! for nothing, and no clock does: certificates last for ever. A key that got lost is answered by new keys
//! for all hosts.

pub mod make;

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

/// The name that is in all certificates of all pairs, for verifiers that want one.
const PEER_NAME: &str = "ftd-peer";
/// A file of keys is far shorter.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Keys that can't be used, or made.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file can't be read.
    #[error("cannot read the keys {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Everybody can read the file.
    #[error("everybody on this host can read the key in {path}: protect it with 'chmod 600 {path}'", path = .path.display())]
    Open {
        /// The file.
        path: PathBuf,
    },
    /// The file holds something else.
    #[error(
        "{} is no host's file of 'ftd keys': {what}", .path.display()
    )]
    NotKeys {
        /// The file.
        path: PathBuf,
        /// What it holds, or lacks.
        what: String,
    },
    /// The key and the certificates do not belong together.
    #[error("the keys in {} cannot be used", .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: rustls::Error,
    },
    /// A file is there already.
    #[error(
        "{} is there already: remove it first, or write to another directory", .path.display()
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file can't be written.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A name that is no file's.
    #[error(
        "'{0}' can't be the name of a host: letters, digits, '-', '_' and '.', at most 64, no '.' first"
    )]
    Name(String),
    /// Two hosts of one name.
    #[error("two hosts can't both be '{0}'")]
    Twice(String),
    /// A key could not be made.
    #[error("cannot make a key")]
    Make(#[source] rcgen::Error),
}

/// A host's keys, ready for connections.
#[derive(Debug, Clone)]
pub struct HostKeys {
    dials: Arc<ClientConfig>,
    accepts: Arc<ServerConfig>,
}

impl HostKeys {
    /// Reads a host's file.
    ///
    /// # Errors
    /// [`KeysError`], which names the file.
    pub fn read(path: &Path) -> Result<HostKeys, KeysError> {
        let failed = |source| KeysError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.permissions().mode() & 0o007 != 0 {
            return Err(KeysError::Open {
                path: path.to_owned(),
            });
        }
        let mut text = Vec::new();
        file.take(FILE_BYTES_MAX)
            .read_to_end(&mut text)
            .map_err(failed)?;
        let parts = Parts::find(&text).map_err(|what| KeysError::NotKeys {
            path: path.to_owned(),
            what,
        })?;
        HostKeys::of(parts).map_err(|source| KeysError::Unusable {
            path: path.to_owned(),
            source,
        })
    }

    fn of(parts: Parts) -> Result<HostKeys, rustls::Error> {
        let Parts {
            key,
            certificate,
            authority,
        } = parts;
        let provider = Arc::new(ring::default_provider());
        let versions = &[&rustls::version::TLS13];
        let mut roots = RootCertStore::empty();
        roots.add(authority)?;
        let roots = Arc::new(roots);
        let chain = vec![certificate];
        let mut dials = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)?
            .with_root_certificates(Arc::clone(&roots))
            .with_client_auth_cert(chain.clone(), key.clone_key())?;
        // Each connection is proven anew.
        dials.resumption = Resumption::disabled();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let mut accepts = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        accepts.send_tls13_tickets = 0;
        Ok(HostKeys {
            dials: Arc::new(dials),
            accepts: Arc::new(accepts),
        })
    }

    /// TLS of a connection that this host dials.
    ///
    /// # Errors
    /// None that the keys, which have been tried, could cause.
    pub fn dials(&self) -> Result<ClientConnection, rustls::Error> {
        let name = ServerName::try_from(PEER_NAME)
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        ClientConnection::new(Arc::clone(&self.dials), name)
    }

    /// TLS of a connection that this host accepts.
    ///
    /// # Errors
    /// None that the keys, which have been tried, could cause.
    pub fn accepts(&self) -> Result<ServerConnection, rustls::Error> {
        ServerConnection::new(Arc::clone(&self.accepts))
    }
}

#[cfg(test)]
impl HostKeys {
    /// These, but a host that dials with them trusts the authority in `file` and shows no certificate.
    pub(crate) fn without_key(&self, file: &Path) -> HostKeys {
        let text = std::fs::read(file).expect("a file");
        let parts = Parts::find(&text).expect("keys");
        let mut roots = RootCertStore::empty();
        roots.add(parts.authority).expect("an authority");
        let dials = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        HostKeys {
            dials: Arc::new(dials),
            accepts: Arc::clone(&self.accepts),
        }
    }
}

/// What a host's file holds.
struct Parts {
    key: PrivateKeyDer<'static>,
    certificate: CertificateDer<'static>,
    authority: CertificateDer<'static>,
}

impl Parts {
    fn find(text: &[u8]) -> Result<Parts, String> {
        let (mut keys, mut certificates) = (Vec::new(), Vec::new());
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
            let (kind, der) = section.map_err(|error| error.to_string())?;
            match kind {
                SectionKind::Certificate => certificates.push(CertificateDer::from(der)),
                kind => keys.extend(PrivateKeyDer::from_pem(kind, der)),
            }
        }
        let key = match keys.len() {
            1 => keys.remove(0),
            0 => return Err("it holds no private key".to_owned()),
            count => return Err(format!("it holds {count} private keys instead of one")),
        };
        let count = certificates.len();
        match <[CertificateDer<'static>; 2]>::try_from(certificates) {
            Ok([certificate, authority]) => Ok(Parts {
                key,
                certificate,
                authority,
            }),
            Err(_) if count == 1 => {
                Err("it is the pair's authority, which stays off the hosts".to_owned())
            }
            Err(_) => Err(format!("it holds {count} certificates instead of two")),
        }
    }
}

#[cfg(test)]
mod tests;
