use crate::output::{Done, Output};
#[derive(clap::Args)]
pub struct Arguments {}
pub fn run(_: Arguments, _: &Output) -> Done {
    Ok(())
}
