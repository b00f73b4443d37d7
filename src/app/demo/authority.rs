//! A CA made for one run of the demo, in memory but for its certificate, which clients need in a file.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// How long both certificates are valid; clients refuse much longer ones.
const VALIDITY: Duration = Duration::from_secs(90 * 86_400);

/// Clocks of clients may be behind by this.
const BACKDATED: Duration = Duration::from_secs(3600);

/// OpenSSL takes no wildcard right below a top-level name, so `demo.localhost` is there by itself too.
const NAMES: [&str; 5] = [
    "localhost",
    "*.localhost",
    "demo.localhost",
    "127.0.0.1",
    "::1",
];

/// PEM texts.
pub struct Issued {
    pub ca_pem: String,
    pub chain_pem: String,
    pub key_pem: String,
}

/// Makes a CA and a certificate of it for this machine; the CA's key is forgotten at once.
pub fn issue(now: SystemTime) -> Result<Issued, String> {
    make(now).map_err(|error| format!("the demo's certificate: {error}"))
}

fn make(now: SystemTime) -> Result<Issued, rcgen::Error> {
    let mut ca = valid_from(now, CertificateParams::new([])?);
    ca.distinguished_name
        .push(DnType::CommonName, "rota demo CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate()?;
    let ca_certificate = ca.self_signed(&ca_key)?;

    let mut leaf = valid_from(now, CertificateParams::new(NAMES.map(str::to_owned))?);
    leaf.distinguished_name.push(DnType::CommonName, NAMES[0]);
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    let leaf_key = KeyPair::generate()?;
    let leaf_certificate = leaf.signed_by(&leaf_key, &Issuer::new(ca, ca_key))?;
    Ok(Issued {
        ca_pem: ca_certificate.pem(),
        chain_pem: leaf_certificate.pem(),
        key_pem: leaf_key.serialize_pem(),
    })
}

fn valid_from(now: SystemTime, mut params: CertificateParams) -> CertificateParams {
    let since_1970 = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(BACKDATED);
    let now = date_time_ymd(1970, 1, 1) + since_1970;
    params.not_before = now - BACKDATED;
    params.not_after = now + VALIDITY;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
}

/// A PEM file with a name of its own in the folder for temporary files; removed when dropped.
pub struct CaFile(PathBuf);

impl CaFile {
    /// Never follows or overwrites what is there already.
    pub fn write(pem: &str) -> Result<CaFile, String> {
        let name = format!(
            "rota-demo-ca-{}-{:08x}.pem",
            std::process::id(),
            fastrand::u32(..)
        );
        let path = std::env::temp_dir().join(name);
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map(|file| (CaFile(path.clone()), file))
            .and_then(|(kept, mut file)| file.write_all(pem.as_bytes()).map(|()| kept));
        written.map_err(|error| format!("{}: {error}", path.display()))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for CaFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
