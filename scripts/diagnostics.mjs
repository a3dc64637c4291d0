// The diagnostics of Effect's language service over all sources, tests and programs at once; warnings count as failures.
import { join } from "node:path"
import { root, run } from "./pnpm.mjs"

process.exit(
  run(join(root, "node_modules", ".bin", "effect-language-service"), [
    "diagnostics",
    "--project",
    join(root, "tsconfig.diagnostics.json"),
    "--strict",
    "--format",
    "text"
  ])
)
