//! Puts the rooms together: the command line, the running process, the demo.

pub mod ask;
pub mod cli;
pub mod demo;

pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
