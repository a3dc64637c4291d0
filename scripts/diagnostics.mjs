// The diagnostics of Effect's language service over every project, warnings counted as failures. Quiet when clean.
import { spawnSync } from "node:child_process"
import { join } from "node:path"
import { root } from "./pnpm.mjs"

const projects = [
  "packages/core/tsconfig.src.json",
  "packages/redis/tsconfig.src.json",
  "packages/llm/tsconfig.src.json",
  "packages/connections/tsconfig.src.json",
  "packages/core/tsconfig.test.json",
  "packages/redis/tsconfig.test.json",
  "packages/llm/tsconfig.test.json",
  "packages/connections/tsconfig.test.json",
  "servers/tsconfig.json",
  "examples/tsconfig.json",
  "benchmarks/tsconfig.json"
]
const program = join(root, "node_modules", ".bin", "effect-language-service")
let failed = 0
for (const project of projects) {
  const child = spawnSync(
    program,
    ["diagnostics", "--project", join(root, project), "--strict", "--format", "pretty"],
    {
      cwd: root,
      encoding: "utf8",
      maxBuffer: 64 * 1024 * 1024
    }
  )
  if (child.status === 0) continue
  failed++
  console.error(`${project}:\n${child.stdout}${child.stderr}`)
}
console.log(
  failed === 0 ? `Effect diagnostics: ${projects.length} projects, none to report` : "Effect diagnostics: see above"
)
process.exit(failed === 0 ? 0 : 1)
