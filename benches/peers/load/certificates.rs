//! Many certificates of one authority: `N.pem` and `N.key` for `cN.test`, `N.both` with both in it, and `authority.pem`.
//! Of a shared key there is one file, `0.key`.

use std::fs;
use std::path::Path;
use std::str::FromStr;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::Failure;

/// Which keys the certificates have.
#[derive(Clone, Copy)]
pub enum Keys {
    Shared,
    Each,
}

impl FromStr for Keys {
    type Err = Failure;

    fn from_str(word: &str) -> Result<Keys, Failure> {
        match word {
            "shared" => Ok(Keys::Shared),
            "each" => Ok(Keys::Each),
            _ => Err("shared or each".into()),
        }
    }
}

/// What the `number`th certificate is for; the first one is for localhost too.
pub fn name(number: usize) -> String {
    format!("c{number}.test")
}

pub fn make(directory: &Path, count: usize, keys: Keys) -> Result<String, Failure> {
    let authority = authority()?;
    fs::create_dir_all(directory)?;
    fs::write(directory.join("authority.pem"), authority.pem())?;
    let mut key = KeyPair::generate()?;
    for number in 0..count {
        if number > 0 && matches!(keys, Keys::Each) {
            key = KeyPair::generate()?;
        }
        let mut names = vec![name(number)];
        if number == 0 {
            names.push("localhost".into());
        }
        let certificate = CertificateParams::new(names)?.signed_by(&key, &authority)?;
        let (certificate, key) = (certificate.pem(), key.serialize_pem());
        let file = |ending: &str| directory.join(format!("{number}.{ending}"));
        fs::write(file("both"), format!("{certificate}{key}"))?;
        fs::write(file("pem"), certificate)?;
        if number == 0 || matches!(keys, Keys::Each) {
            fs::write(file("key"), key)?;
        }
    }
    Ok(directory.display().to_string())
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>, Failure> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}
