//! Writes the inputs to begin with: `cargo run --bin seeds` fills `corpus/TARGET`, where `cargo fuzz` looks
fn main() -> std::io::Result<()> {
    for target in secvisor_fuzz::targets::TARGETS {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
        std::fs::create_dir_all(&directory)?;
        for (i, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(directory.join(format!("seed-{i}")), seed)?;
        }
    }
    Ok(())
}
