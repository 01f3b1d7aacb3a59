//! The `ctx` command as a program of its own: for tests, and for machines that have no `conclave`.

fn main() {
    std::process::exit(conclave_operations::ctx_command::run(std::env::args().skip(1)));
}
