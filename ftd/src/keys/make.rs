//! Making keys: an authority for the pair, which signs a certificate for each host.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};

use super::{KeysError, PEER_NAME};

/// The authority's file.
pub const AUTHORITY: &str = "pair.ca";
/// Longest name of a host.
const NAME_BYTES_MAX: usize = 64;

/// What was made.
#[derive(Debug, PartialEq, Eq)]
pub struct Made {
    /// The authority's file.
    pub authority: PathBuf,
    /// It was there already.
    pub authority_was_there: bool,
    /// Each host's file.
    pub hosts: Vec<PathBuf>,
}

/// Makes a file for each host in `directory`, signed by the authority that is there, or by a new one.
///
/// # Errors
/// [`KeysError`]. No file is ever overwritten.
pub fn make(directory: &Path, hosts: &[String]) -> Result<Made, KeysError> {
    for (index, host) in hosts.iter().enumerate() {
        check_name(host)?;
        if hosts[..index].contains(host) {
            return Err(KeysError::Twice(host.clone()));
        }
    }
    let file_of = |host: &String| directory.join(format!("{host}.pem"));
    let hosts_files: Vec<PathBuf> = hosts.iter().map(file_of).collect();
    if let Some(path) = hosts_files.iter().find(|path| path.exists()) {
        return Err(KeysError::Exists { path: path.clone() });
    }
    let path = directory.join(AUTHORITY);
    let (authority, was_there) = match std::fs::read_to_string(&path) {
        Ok(text) => (Authority::read(&path, &text)?, true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(|source| KeysError::Write {
                    path: directory.to_owned(),
                    source,
                })?;
            let authority = Authority::new(KeyPair::generate().map_err(KeysError::Make)?)?;
            write(&path, &authority.file())?;
            (authority, false)
        }
        Err(source) => return Err(KeysError::Read { path, source }),
    };
    for (host, file) in hosts.iter().zip(&hosts_files) {
        write(file, &authority.sign(host)?)?;
    }
    Ok(Made {
        authority: path,
        authority_was_there: was_there,
        hosts: hosts_files,
    })
}

fn check_name(name: &str) -> Result<(), KeysError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let good = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(fits)
        && !name.starts_with('.');
    match good {
        true => Ok(()),
        false => Err(KeysError::Name(name.to_owned())),
    }
}

/// For its owner only, and nothing that is there is overwritten.
fn write(path: &Path, text: &str) -> Result<(), KeysError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => KeysError::Exists {
            path: path.to_owned(),
        },
        _ => KeysError::Write {
            path: path.to_owned(),
            source,
        },
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)
}

/// Who signs the hosts' certificates.
struct Authority {
    certificate: Certificate,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(key: KeyPair) -> Result<Authority, KeysError> {
        // Of the key alone, so that it is the same again when the file is read: authorities that differ in
        // their keys differ in their names.
        let hash = blake3::hash(key.public_key_raw()).to_hex();
        let mut params = params(&format!("ftd pair {}", &hash[..16]))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).map_err(KeysError::Make)?;
        Ok(Authority {
            certificate,
            key_pem: key.serialize_pem(),
            issuer: Issuer::new(params, key),
        })
    }

    fn read(path: &Path, text: &str) -> Result<Authority, KeysError> {
        let key = KeyPair::from_pem(text).map_err(|error| KeysError::NotKeys {
            path: path.to_owned(),
            what: format!("no pair's authority can be read from it: {error}"),
        })?;
        Authority::new(key)
    }

    fn file(&self) -> String {
        format!("{}{}", self.key_pem, self.certificate.pem())
    }

    /// A host's file.
    fn sign(&self, host: &str) -> Result<String, KeysError> {
        let key = KeyPair::generate().map_err(KeysError::Make)?;
        let mut params = params(host)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let signed = params
            .signed_by(&key, &self.issuer)
            .map_err(KeysError::Make)?;
        let (key, own, authority) = (key.serialize_pem(), signed.pem(), self.certificate.pem());
        Ok(format!("{key}{own}{authority}"))
    }
}

/// Of a certificate that is good at any time: hosts' clocks may be wrong.
fn params(name: &str) -> Result<CertificateParams, KeysError> {
    let mut params = CertificateParams::new([PEER_NAME.to_owned()]).map_err(KeysError::Make)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(9999, 12, 31);
    Ok(params)
}
