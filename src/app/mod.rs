//! app.

pub mod ask;
pub mod cli;

pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
