// npm start: installs what the assistant runs, if need be, and runs it. Arguments are passed on.
import { spawn } from "node:child_process"
import { createRequire } from "node:module"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import { checkNode, install, root } from "./pnpm.mjs"

checkNode()
const code = install("run")
if (code !== 0) process.exit(code)

const loader = pathToFileURL(createRequire(join(root, "examples", "package.json")).resolve("tsx")).href
const child = spawn(
  process.execPath,
  ["--import", loader, join(root, "examples", "assistant", "src", "main.ts"), ...process.argv.slice(2)],
  { stdio: "inherit" }
)
// The terminal sends Ctrl-C to the whole group; a signal to this process alone is passed on. Either way the assistant
// says when it is done.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
  process.on(signal, () => {
    if (signal !== "SIGINT" || !process.stdin.isTTY) child.kill(signal)
  })
}
child.on("error", (error) => {
  console.error(`The assistant could not be started: ${error.message}`)
  process.exit(1)
})
child.on("exit", (status, signal) => process.exit(status ?? (signal === "SIGINT" ? 130 : 143)))
