//! The binary: hands the command line to the app and its exit code to the shell.

use std::process::ExitCode;

fn main() -> ExitCode {
    rota::app::main()
}
