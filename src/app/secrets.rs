//! Token, key and CA files that the configuration names: whether they can be used, asked before anybody needs them. Blocking.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use crate::admin::Token;
use crate::config::{Config, ConsulToken, ServiceProtocol};
use crate::control::acme::jose::Binding;
use crate::control::consul::Client;
use crate::dial;
use crate::seal::Keyring;

/// A line for each token file that cannot be used. No reason not to start: they are read anew at each use.
pub fn unusable_tokens(config: &Config) -> Vec<String> {
    let mut mistakes = Vec::new();
    if let Some(path) = &config.admin.token_file
        && let Err(error) = Token::in_file(path).read()
    {
        mistakes.push(format!("admin.token_file: {error}"));
    }
    let token = config
        .consul
        .as_ref()
        .and_then(|consul| consul.token.as_ref());
    if let Some(ConsulToken::File(path)) = token {
        let problem = match fs::read_to_string(path) {
            Ok(text) if text.trim().is_empty() => Some("it is empty".to_owned()),
            Ok(_) => None,
            Err(error) => Some(unread(&error)),
        };
        mistakes.extend(problem.map(|why| format!("consul.token_file: {}: {why}", path.display())));
    }
    mistakes
}

/// The keys that seal what rests outside this process; None: no key file is named. The error is a line.
pub fn keyring(config: &Config) -> Result<Option<Arc<Keyring>>, String> {
    let path = config.acme.as_ref().and_then(|acme| acme.key_file.as_ref());
    path.map(|path| Keyring::read(path).map(Arc::new))
        .transpose()
        .map_err(|mistake| format!("acme.key_file: {mistake}"))
}

/// A line if others than its owner can read Consul's token. No mistake: agents' own files often are so.
pub fn exposed_tokens(config: &Config) -> Option<String> {
    let token = config.consul.as_ref()?.token.as_ref()?;
    let ConsulToken::File(path) = token else {
        return None;
    };
    let mode = fs::metadata(path).ok()?.permissions().mode() & 0o777;
    let path = path.display();
    (mode & 0o077 != 0).then(|| {
        format!("consul.token_file: {path}: others can read it (mode {mode:04o}; 0600 is right)")
    })
}

/// One wording for what is not there, whoever looks for it.
fn unread(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        _ => error.to_string(),
    }
}

/// What is only named is searched for when it is called.
fn unusable_program(program: &Path) -> Option<String> {
    if !program.is_absolute() {
        return None;
    }
    let why = match fs::metadata(program) {
        Ok(about) if about.is_file() && about.permissions().mode() & 0o111 != 0 => return None,
        Ok(_) => "not a program that can be run".to_owned(),
        Err(error) => unread(&error),
    };
    Some(format!("acme.dns_hook: {}: {why}", program.display()))
}

/// A line for each CA or client certificate that cannot be used to speak to Consul, to the CA or to servers, and for a hook or a binding
/// of the CA's that cannot be used.
pub fn unusable_authorities(config: &Config) -> Vec<String> {
    let mut mistakes = Vec::new();
    if let Some(Err(error)) = config.consul.as_ref().map(Client::new) {
        mistakes.push(format!("consul: {error}"));
    }
    let issuers = config.acme.iter().flat_map(|acme| acme.directories());
    for (issuer, place) in issuers.zip(["acme", "acme.fallback"]) {
        let ca = issuer.ca_file.as_ref();
        if let Some(Err(error)) = ca.map(|ca| dial::tls::client_config(Some(ca), None, &[])) {
            mistakes.push(format!("{place}.ca_file: {error}"));
        }
        if let Some(Err(error)) = issuer.eab.as_ref().map(Binding::read) {
            mistakes.push(format!("{place}.eab.hmac_file: {error}"));
        }
    }
    let hook = config.acme.as_ref().and_then(|acme| acme.dns_hook.as_ref());
    mistakes.extend(hook.and_then(|hook| unusable_program(&hook.program)));
    let mut fine = BTreeSet::new();
    for service in &config.services {
        let ca = match service.protocol {
            ServiceProtocol::Http | ServiceProtocol::H2c => None,
            ServiceProtocol::Https | ServiceProtocol::H2 => service.tls.ca.as_ref(),
        };
        let Some(ca) = ca.filter(|ca| !fine.contains(*ca)) else {
            continue;
        };
        match dial::tls::client_config(Some(ca), None, &[]) {
            Ok(_) => drop(fine.insert(ca)),
            Err(error) => mistakes.push(format!("service {}: tls.ca: {error}", service.name)),
        }
    }
    mistakes
}

/// Reads the CA files that services trust, for nothing but this: a file system that hangs holds up who calls this, and not the
/// control plane, which reads them again. What is wrong with them is found there.
pub fn read_authorities(config: &Config) {
    let files: BTreeSet<_> = config
        .services
        .iter()
        .filter_map(|service| service.tls.ca.as_ref())
        .collect();
    files.into_iter().for_each(|file| drop(fs::read(file)));
}
