//! fabio's `urlprefix-HOST/PATH OPTION…`: what of it means the same here, and what an option that does not would have done.

use super::shown;
use crate::config::ServiceProtocol;

/// Host and path as they stand there; no host is every host.
pub(super) fn route(text: &str) -> Result<(&str, String), &'static str> {
    if text.starts_with(':') {
        return Err("a port instead of a host: TCP is not passed on");
    }
    if text.contains('$') {
        return Err("it holds a variable, and none is filled in");
    }
    match text.split_once('/') {
        None => Err("it has no path: expected at least a slash"),
        Some(("", path)) => Ok(("*", format!("/{path}"))),
        Some((host, path)) => Ok((host, format!("/{path}"))),
    }
}

/// What an option of fabio's means here.
pub(super) enum Said {
    Nothing,
    Speaks(ServiceProtocol),
    /// It can be left out without harm.
    Without(&'static str),
    /// Without it the route would mean something else.
    Never(String),
}

pub(super) fn option(text: &str) -> Said {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    match (name, value) {
        ("proto", "http" | "") | ("tlsskipverify" | "pxyproto", "false") => Said::Nothing,
        ("proto", "https") => Said::Speaks(ServiceProtocol::Https),
        ("proto", "grpc") => Said::Speaks(ServiceProtocol::H2c),
        ("proto", "grpcs") => Said::Speaks(ServiceProtocol::H2),
        ("weight", _) => Said::Without(
            "weight is not supported: `groups` of the service's document share requests out",
        ),
        ("register", _) => {
            Said::Without("register is not supported: rota registers nothing in Consul")
        }
        ("allow" | "deny" | "auth", _) => Said::Never(format!(
            "{name} is not supported, and without it more would be let in"
        )),
        ("tlsskipverify", _) => Said::Never("servers over TLS are always verified".into()),
        ("proto", _) => Said::Never(format!("{} is not spoken here", shown(text))),
        ("strip" | "prepend" | "host" | "redirect" | "pxyproto", _) => Said::Never(format!(
            "{name} is not supported, and servers would get other requests without it"
        )),
        _ => Said::Never(format!("nobody knows the option {}", shown(text))),
    }
}
