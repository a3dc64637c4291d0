// What the compiler has to say of the programs in these folders, each with a tsconfig.json: one line for each error, and
// status 1 if there is any. Only the programs are checked, not what they import; that has gates of its own, and takes long.
// node check.mjs <folder>...
import { join } from "node:path"
import ts from "typescript"

const host = { ...ts.sys, getCanonicalFileName: (name) => name, getNewLine: () => "\n" }
const found = []
const programs = new Map()
for (const folder of process.argv.slice(2)) {
  const config = join(folder, "tsconfig.json")
  const { errors, fileNames, options } = ts.getParsedCommandLineOfConfigFile(
    config,
    { noEmit: true },
    { ...ts.sys, onUnRecoverableConfigFileDiagnostic: (error) => found.push(error) }
  )
  found.push(...errors)
  // with the same settings they are one program, which reads what they import once
  const { configFilePath: _, ...settings } = options
  const key = JSON.stringify(settings)
  const program = programs.get(key) ?? { options, files: [] }
  program.files.push(...fileNames)
  programs.set(key, program)
}
for (const { files, options } of programs.values()) {
  const program = ts.createProgram({ rootNames: files, options })
  found.push(...program.getOptionsDiagnostics(), ...program.getGlobalDiagnostics())
  for (const file of files) {
    const source = program.getSourceFile(file)
    found.push(
      ...program.getSyntacticDiagnostics(source),
      ...program.getSemanticDiagnostics(source),
      ...program.getDeclarationDiagnostics(source)
    )
  }
}
process.stdout.write(
  ts.formatDiagnostics(ts.sortAndDeduplicateDiagnostics(found), {
    ...host,
    getCurrentDirectory: ts.sys.getCurrentDirectory
  })
)
process.exitCode = found.length === 0 ? 0 : 1
