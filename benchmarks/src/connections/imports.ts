/**
 * How long the modules take to import, each in a process of its own that has imported Effect and its platform already,
 * beside the drivers and official clients by themselves.
 */
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { Effect, type Scope } from "effect"
import * as Load from "../redis/Load.ts"
import type { Comparing } from "./place.ts"

const rounds = 9
const dist = Path.resolve(import.meta.dirname, "../../../packages/connections/dist")
const packages = Path.resolve(import.meta.dirname, "../../../packages")
const modulesOfBenchmarks = Path.resolve(import.meta.dirname, "../../node_modules")

/**
 * A folder in which the packages stand as they are published, beside everything that the benchmarks have: hooks that
 * find them elsewhere would be measured with them.
 */
const installed: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync(() => {
    const folder = Fs.mkdtempSync(Path.join(Os.tmpdir(), "underlay-imports-"))
    const target = Path.join(folder, "node_modules")
    Fs.mkdirSync(Path.join(target, "@underlay"), { recursive: true })
    for (const modules of [modulesOfBenchmarks, Path.join(packages, "connections", "node_modules")]) {
      for (const name of Fs.readdirSync(modules)) {
        if (name === "@underlay" || name.startsWith(".") || Fs.existsSync(Path.join(target, name))) continue
        Fs.symlinkSync(Path.join(modules, name), Path.join(target, name))
      }
    }
    for (const name of ["core", "connections"]) {
      const to = Path.join(target, "@underlay", name)
      Fs.cpSync(Path.join(packages, name, "dist"), Path.join(to, "dist"), { recursive: true })
      const { publishConfig, ...rest } = JSON.parse(Fs.readFileSync(Path.join(packages, name, "package.json"), "utf8"))
      Fs.writeFileSync(Path.join(to, "package.json"), JSON.stringify({ ...rest, ...publishConfig }))
    }
    return folder
  }),
  (folder) => Effect.sync(() => Fs.rmSync(folder, { recursive: true, force: true }))
)

const modules = (): ReadonlyArray<readonly [name: string, specifier: string]> => [
  ...Fs.readdirSync(dist, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && entry.name !== "internal")
    .flatMap((folder) =>
      Fs.readdirSync(Path.join(dist, folder.name))
        .filter((file) => file.endsWith(".js"))
        .map((file) => {
          const name = `${folder.name}/${file.slice(0, -3)}`
          return [`ours: ${name}`, `@underlay/connections/${name}`] as const
        })
    ),
  ...["pg", "postgres", "mongodb", "memjs", "chromadb", "@qdrant/js-client-rest", "@effect/sql-pg"].map(
    (name) => [name, name] as const
  ),
  ...["@aws-sdk/client-s3", "@aws-sdk/lib-dynamodb"].map((name) => [name, name] as const)
]

const program = (specifier: string): string => `
  await import("effect"); await import("@effect/platform"); await import("@effect/sql/SqlClient")
  const cpu = process.cpuUsage(), at = performance.now()
  await import(${JSON.stringify(specifier)})
  const { system, user } = process.cpuUsage(cpu)
  process.stdout.write(JSON.stringify([performance.now() - at, system + user]))
  process.exit(0)`

const once = (folder: string, specifier: string): Load.Sample => {
  const text = ChildProcess.execFileSync(process.execPath, ["--input-type=module", "--eval", program(specifier)], {
    cwd: folder,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"]
  })
  const [wallMs, cpuUs]: readonly [number, number] = JSON.parse(text)
  return { operations: 1, clientUs: cpuUs, serverUs: 0, perSecond: 1_000 / wallMs }
}

export const comparing: Comparing = Effect.map(installed, (folder) => {
  const all = modules()
  const samples: Record<string, Array<Load.Sample>> = Object.fromEntries(all.map(([name]) => [name, []]))
  for (let round = 0; round < rounds; round++) {
    for (let index = 0; index < all.length; index++) {
      const [name, specifier] = all[(index + round) % all.length] ?? ["", ""]
      samples[name]?.push(once(folder, specifier))
    }
  }
  return [Load.fromSamples("Imports, after Effect and its platform", "pg", samples)]
})
