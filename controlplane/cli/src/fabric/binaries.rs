//! Where the sibling programs are: beside the running one, or one folder up
//! when that is a test (`target/<profile>/deps`).

use std::path::{Path, PathBuf};

use super::FabricError;

/// The programs a fabric is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// `caplane-controller`.
    pub controller: PathBuf,
    /// `caplane-router`.
    pub router: PathBuf,
}

impl Binaries {
    /// Finds the programs beside the running one.
    ///
    /// # Errors
    /// [`FabricError::NoBinary`] with the folders searched and how to build them.
    pub fn beside_this_program() -> Result<Self, FabricError> {
        let program = std::env::current_exe().map_err(|source| FabricError::Io {
            operation: "find the running program's folder",
            path: PathBuf::from("/proc/self/exe"),
            source,
        })?;
        Self::beside(&program)
    }

    fn beside(program: &Path) -> Result<Self, FabricError> {
        let own = program.parent();
        let above = own
            .filter(|folder| {
                folder
                    .file_name()
                    .is_some_and(|name| name == "deps" || name == "examples")
            })
            .and_then(Path::parent);
        let folders: Vec<PathBuf> = own.into_iter().chain(above).map(Path::to_owned).collect();
        let find = |name: &'static str| {
            let found = folders
                .iter()
                .map(|folder| folder.join(name))
                .find(|path| path.is_file());
            found.ok_or_else(|| FabricError::NoBinary {
                name,
                searched: folders.clone(),
            })
        };
        Ok(Self {
            controller: find("caplane-controller")?,
            router: find("caplane-router")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_are_found_from_a_program_and_from_a_test() {
        let folder = tempfile::tempdir().expect("folder");
        let release = folder.path();
        std::fs::create_dir(release.join("deps")).expect("deps");
        for name in ["caplane-controller", "caplane-router"] {
            std::fs::write(release.join(name), "").expect("a program");
        }
        let from_program = Binaries::beside(&release.join("caplane")).expect("found");
        let from_test = Binaries::beside(&release.join("deps/e2e-0123")).expect("found");
        assert_eq!(from_program, from_test);
        assert_eq!(from_test.router, release.join("caplane-router"));
    }

    #[test]
    fn a_missing_program_is_said_with_the_command_that_builds_it() {
        let folder = tempfile::tempdir().expect("folder");
        let error = Binaries::beside(&folder.path().join("caplane"))
            .expect_err("none")
            .to_string();
        assert!(
            error.contains("caplane-controller") && error.contains("cargo build --release --bins"),
            "{error}"
        );
        assert!(
            error.contains(&folder.path().display().to_string()),
            "{error}"
        );
    }
}
