// Packs every package as it would be published and checks what a user would get: publint, are-the-types-wrong, and a
// consumer outside the workspace that installs the archives, type-checks them without skipLibCheck and runs, on a
// redis-server of its own where the machine has one. It runs on this Node, and on each of those given.
// node scripts/packages.mjs [path of another node]...
import { spawn, spawnSync } from "node:child_process"
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { root } from "./pnpm.mjs"

const version = JSON.parse(readFileSync(join(root, "package.json"), "utf8")).packageManager
const names = ["core", "redis", "llm", "connections"]
const folder = mkdtempSync(join(tmpdir(), "underlay-packed-"))
const step = (title, program, args, options = {}) => {
  const child = spawnSync(program, args, { cwd: root, encoding: "utf8", maxBuffer: 64 * 1024 * 1024, ...options })
  if (child.status === 0) return child.stdout
  console.error(`${title} failed:\n${child.stdout ?? ""}${child.stderr ?? ""}${child.error?.message ?? ""}`)
  rmSync(folder, { recursive: true, force: true })
  process.exit(1)
}
const bin = (name) => join(root, "node_modules", ".bin", name)

const archives = {}
for (const name of names) {
  const from = join(root, "packages", name)
  step(`pack ${name}`, "npx", ["--yes", version, "pack", "--pack-destination", folder], { cwd: from })
  const archive = readdirSync(folder).find((file) => file.startsWith(`underlay-${name}-`))
  archives[name] = join(folder, archive)
  step(`publint ${name}`, bin("publint"), ["run", archives[name], "--strict"])
  step(`are the types wrong in ${name}`, bin("attw"), [archives[name], "--profile", "esm-only", "--format", "ascii"])
}
console.log(`Packed ${names.length} packages: publint and are-the-types-wrong have nothing to report`)

// The consumer: its manifest takes the versions that the workspace pins, so that it resolves as a user's would.
const consumer = join(folder, "consumer")
mkdirSync(consumer)
cpSync(join(root, "scripts", "consumer"), consumer, { recursive: true })
const examples = JSON.parse(readFileSync(join(root, "examples", "package.json"), "utf8")).dependencies
const development = JSON.parse(readFileSync(join(root, "package.json"), "utf8")).devDependencies
// What is optional for a package, the consumer has; that nothing else needs it, exports.ts looks at.
const llm = JSON.parse(readFileSync(join(root, "packages", "llm", "package.json"), "utf8")).devDependencies
const connections = JSON.parse(
  readFileSync(join(root, "packages", "connections", "package.json"), "utf8")
).devDependencies
const pick = (from, keys) => Object.fromEntries(keys.map((key) => [key, from[key]]))
writeFileSync(
  join(consumer, "package.json"),
  JSON.stringify({
    name: "consumer",
    private: true,
    type: "module",
    dependencies: {
      ...Object.fromEntries(names.map((name) => [`@underlay/${name}`, `file:${archives[name]}`])),
      ...pick(
        examples,
        Object.keys(examples).filter((key) => !key.startsWith("@underlay/") && key !== "tsx")
      ),
      ...pick(llm, ["@effect/ai", "@effect/rpc"]),
      // its types are those of the driver
      ...pick(connections, ["mongodb"])
    },
    devDependencies: { ...pick(development, ["typescript", "@types/node"]), "@types/ws": "8.18.2" },
    pnpm: {
      overrides: {
        ...Object.fromEntries(names.map((name) => [`@underlay/${name}`, `file:${archives[name]}`])),
        ...pick(
          examples,
          Object.keys(examples).filter((key) => key.startsWith("@effect/"))
        )
      },
      ignoredBuiltDependencies: ["msgpackr-extract", "@parcel/watcher", "esbuild"]
    }
  })
)
step("install the consumer", "npx", ["--yes", version, "install", "--prefer-offline", "--ignore-workspace"], {
  cwd: consumer
})
step("type-check the consumer", join(consumer, "node_modules", ".bin", "tsc"), ["-p", "."], { cwd: consumer })
/** A free port of this machine. */
const freePort = () =>
  new Promise((resolve, reject) => {
    const server = createServer()
    server.once("error", reject)
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address()
      server.close(() => resolve(port))
    })
  })

/** The address of a redis-server that ends with this program; nothing where there is none to start. */
const redis = async () => {
  const missing = spawnSync("redis-server", ["--version"]).error !== undefined
  if (missing && process.env.UNDERLAY_REQUIRE_ALL) step("look for a redis-server", "redis-server", ["--version"])
  if (missing) return undefined
  const port = await freePort()
  const server = spawn("redis-server", ["--port", `${port}`, "--bind", "127.0.0.1", "--save", "", "--dir", folder], {
    stdio: "ignore"
  })
  process.once("exit", () => server.kill())
  server.unref()
  for (let look = 0; look < 300; look++) {
    if (spawnSync("redis-cli", ["-p", `${port}`, "ping"], { encoding: "utf8" }).stdout.trim() === "PONG") break
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  return `redis://127.0.0.1:${port}`
}
const url = await redis()
const { REDIS_URL: _, ...environment } = process.env
for (const node of [process.execPath, ...process.argv.slice(2)]) {
  // what the run before left there would be no news to this one, which waits for it
  if (url !== undefined) step("empty the redis-server", "redis-cli", ["-u", url, "flushall"])
  process.stdout.write(
    step(`run the consumer by ${node}`, node, [join(consumer, "build", "main.js")], {
      cwd: consumer,
      env: url === undefined ? environment : { ...environment, REDIS_URL: url }
    })
  )
}
rmSync(folder, { recursive: true, force: true })
