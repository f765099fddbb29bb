// Shared by build.rs and tests/sanitized.rs: kernels as translation units, and the table that finds
// them.

/// Writes a translation unit for each kernel and one with the table; returns their paths.
fn write_units(
    folder: &std::path::Path,
    kernels: &[(String, String)],
) -> std::io::Result<Vec<std::path::PathBuf>> {
    let mut units = Vec::new();
    let (mut declarations, mut entries) = (String::new(), String::new());
    for (number, (name, text)) in kernels.iter().enumerate() {
        let file = folder.join(format!("kernel_{number}.cpp"));
        std::fs::write(
            &file,
            format!(
                "#define kernel_main kernel_{number}_main\n#line 1 \
            \"kernels/{name}\"\n{text}"
            ),
        )?;
        units.push(file);
        declarations += &format!("void kernel_{number}_main();\n");
        // Compilers limit the length of one literal: a piece a line.
        let pieces: String =
            text.split_inclusive('\n').map(|line| format!("R\"~({line})~\"\n")).collect();
        entries += &format!("    {{\"{name}\",\n{pieces}, kernel_{number}_main}},\n");
    }
    let table = format!(
        "#include <cstring>\n{declarations}struct Entry {{ const char* name; const char* source; \
        void (*run)(); }};\n\
         static const Entry entries[] = {{\n{entries}}};\n\
         void (*find_kernel(const char* name, const char* source))() {{\n\
         for (const Entry& entry : entries) {{\n\
         if (std::strcmp(entry.name, name) == 0 && std::strcmp(entry.source, source) == 0) {{\n\
         return entry.run;\n}}\n}}\nreturn nullptr;\n}}\n"
    );
    let file = folder.join("kernel_table.cpp");
    std::fs::write(&file, table)?;
    units.push(file);
    Ok(units)
}
