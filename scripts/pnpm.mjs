// Runs the package manager by version: it need not be installed. Shared by the scripts beside it.
import { spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { dirname, join, resolve } from "node:path"
import { fileURLToPath } from "node:url"

export const root = resolve(dirname(fileURLToPath(import.meta.url)), "..")
const version = JSON.parse(readFileSync(join(root, "package.json"), "utf8")).packageManager.replace("pnpm@", "")
const windows = process.platform === "win32"

/** Runs a program with its output passed through; the result is its exit code. */
export const run = (program, args, options = {}) => {
  const child = spawnSync(program, args, { cwd: root, stdio: "inherit", shell: windows, ...options })
  if (child.error) {
    console.error(`${program} could not be started: ${child.error.message}`)
    return 1
  }
  return child.status ?? 1
}

/** Runs pnpm, quiet unless it fails. */
const quietPnpm = (args) => {
  const child = spawnSync("npx", ["--yes", `pnpm@${version}`, ...args], {
    cwd: root,
    encoding: "utf8",
    shell: windows,
    maxBuffer: 64 * 1024 * 1024
  })
  if (child.error || child.status !== 0) {
    console.error(`${child.stdout ?? ""}${child.stderr ?? ""}${child.error ? child.error.message : ""}`)
    return child.status || 1
  }
  return 0
}

const stampFile = join(root, "node_modules", ".underlay", "installed.json")

/** What decides whether an installation is up to date: the lock file and every manifest. */
const fingerprint = () => {
  const hash = createHash("sha256")
  const files = ["package.json", "pnpm-lock.yaml", "pnpm-workspace.yaml"]
  for (const name of ["core", "redis", "llm", "connections"]) files.push(`packages/${name}/package.json`)
  for (const name of ["servers", "examples", "benchmarks"]) files.push(`${name}/package.json`)
  for (const file of files) if (existsSync(join(root, file))) hash.update(readFileSync(join(root, file)))
  return hash.digest("hex")
}

const installed = () => {
  try {
    const stamp = JSON.parse(readFileSync(stampFile, "utf8"))
    return stamp.fingerprint === fingerprint() ? stamp.scope : undefined
  } catch {
    return undefined
  }
}

/** Whether somebody has installed everything by hand: then a smaller installation would take it away again. */
const hasDevelopment = () => existsSync(join(root, "node_modules", "vitest"))

/**
 * Installs what `scope` needs, if it is not there: `run` is what the assistant runs, `all` is everything but the
 * benchmarks' peers. Prints one line when it works, nothing when there is nothing to do.
 */
export const install = (wanted) => {
  const scope = wanted === "run" && hasDevelopment() ? "all" : wanted
  const present = installed()
  if (present === "all" || present === scope) return 0
  const filter =
    scope === "run" ? ["--prod", "--filter", "@underlay/examples..."] : ["--filter", "!@underlay/benchmarks"]
  console.log(
    scope === "run"
      ? `Installing what the assistant runs (pnpm ${version}, the first time only) …`
      : `Installing the workspace (pnpm ${version}, the first time only) …`
  )
  const started = performance.now()
  const code = quietPnpm(["install", "--frozen-lockfile", ...filter])
  if (code !== 0) {
    console.error(
      "The installation failed: see above. Node 20.19 or newer, npm and a reachable npm registry are needed."
    )
    return code
  }
  mkdirSync(dirname(stampFile), { recursive: true })
  writeFileSync(stampFile, JSON.stringify({ fingerprint: fingerprint(), scope }))
  console.log(`Installed in ${((performance.now() - started) / 1000).toFixed(1)} s.`)
  return 0
}

/** Stops with a plain line where Node is too old. */
export const checkNode = () => {
  const [major, minor] = process.versions.node.split(".").map(Number)
  if (major < 20 || (major === 20 && minor < 19)) {
    console.error(`Node 20.19 or newer is needed; this is ${process.versions.node}.`)
    process.exit(1)
  }
}
