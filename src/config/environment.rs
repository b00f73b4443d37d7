//! What the process knows beside its file, as a plain value, so that reading a file depends on nothing else.

use std::num::NonZeroUsize;
use std::path::PathBuf;

/// The host's name, its cores, and Consul's own variables. An empty variable counts as absent.
/// No `Debug`: it may hold a token.
#[derive(Clone)]
pub struct Environment {
    /// The default of `node.name`.
    pub host_name: String,
    /// The default of `node.workers`: the cores that this process may use.
    pub cores: NonZeroUsize,
    /// `CONSUL_HTTP_ADDR`
    pub consul_http_addr: Option<String>,
    /// `CONSUL_HTTP_TOKEN`
    pub consul_http_token: Option<String>,
    /// `CONSUL_HTTP_TOKEN_FILE`; wins over the token itself, as in Consul's own client.
    pub consul_http_token_file: Option<PathBuf>,
    /// `CONSUL_CACERT`
    pub consul_cacert: Option<PathBuf>,
    /// `CONSUL_CLIENT_CERT`
    pub consul_client_cert: Option<PathBuf>,
    /// `CONSUL_CLIENT_KEY`
    pub consul_client_key: Option<PathBuf>,
}

impl Environment {
    /// A host of this name with one core and no variables.
    pub fn bare(host_name: &str) -> Environment {
        Environment {
            host_name: host_name.to_owned(),
            cores: NonZeroUsize::MIN,
            consul_http_addr: None,
            consul_http_token: None,
            consul_http_token_file: None,
            consul_cacert: None,
            consul_client_cert: None,
            consul_client_key: None,
        }
    }

    /// Reads the process's environment now. To be asked once: it takes some twenty system calls, most of them for the cores. Relative paths in it are relative to the working directory.
    pub fn of_this_process() -> Environment {
        // What is no Unicode stays wrong after this and is refused where it is used.
        let text = |variable: &str| {
            let value = std::env::var_os(variable)?;
            Some(value.to_string_lossy().into_owned()).filter(|text| !text.is_empty())
        };
        let path = |variable: &str| {
            let value = std::env::var_os(variable).filter(|value| !value.is_empty())?;
            let path = PathBuf::from(value);
            Some(std::path::absolute(&path).unwrap_or(path))
        };
        Environment {
            host_name: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            cores: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            consul_http_addr: text("CONSUL_HTTP_ADDR"),
            consul_http_token: text("CONSUL_HTTP_TOKEN"),
            consul_http_token_file: path("CONSUL_HTTP_TOKEN_FILE"),
            consul_cacert: path("CONSUL_CACERT"),
            consul_client_cert: path("CONSUL_CLIENT_CERT"),
            consul_client_key: path("CONSUL_CLIENT_KEY"),
        }
    }
}
