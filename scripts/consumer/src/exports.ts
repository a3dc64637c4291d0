// Every module that is in a package is exported, by its name from the root (or from `testing`) and by its path; what is
// internal is not. The root needs no optional package: a module that does is exported by its path alone.
import { readdirSync, readFileSync } from "node:fs"
import { basename, dirname, join, relative, sep } from "node:path"
import { fileURLToPath } from "node:url"
import { Effect } from "effect"

const modulesIn = (folder: string): ReadonlyArray<string> =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith(".js"))
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)).split(sep).join("/").slice(0, -3))
    .sort()

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null

const load = (name: string) =>
  Effect.map(
    Effect.tryPromise((): Promise<unknown> => import(name)),
    (module) => (isRecord(module) ? module : {})
  )

/** Whether another module has it as a part, as `VectorStore.Filter` is. */
const isPartOf = (index: Readonly<Record<string, unknown>>, module: unknown): boolean =>
  Object.values(index).some((other) => isRecord(other) && Object.values(other).includes(module))

/** The optional packages that a module imports at once, itself or by those that it imports. */
const optionalNeeds = (file: string, optional: ReadonlyArray<string>): ReadonlySet<string> => {
  const found = new Set<string>()
  const seen = new Set<string>()
  const look = (at: string): void => {
    if (seen.has(at)) return
    seen.add(at)
    for (const [, from = ""] of readFileSync(at, "utf8").matchAll(
      /^(?:import|export|\})[^"'\n]*["']([^"'\n]+)["']/gm
    )) {
      if (from.startsWith(".")) look(join(dirname(at), from))
      else for (const name of optional) if (from === name || from.startsWith(`${name}/`)) found.add(name)
    }
  }
  look(file)
  return found
}

/** What is missing of one package, and what is there that should not be. */
const problemsOf = (name: string) =>
  Effect.gen(function* () {
    const folder = dirname(fileURLToPath(import.meta.resolve(name)))
    const manifest: unknown = JSON.parse(readFileSync(join(folder, "..", "package.json"), "utf8"))
    const peers = isRecord(manifest) ? manifest["peerDependenciesMeta"] : undefined
    const optional = isRecord(peers) ? Object.keys(peers) : []
    const hasTesting = isRecord(manifest) && isRecord(manifest["exports"]) && "./testing" in manifest["exports"]
    const root = yield* load(name)
    const testing = hasTesting ? yield* load(`${name}/testing`) : {}
    const problems = [...optionalNeeds(join(folder, "index.js"), optional)].map(
      (needed) => `${name} cannot be imported without ${needed}, which is optional`
    )
    for (const path of modulesIn(folder)) {
      const title = basename(path)
      if (title === "index") continue
      const byPath = yield* Effect.option(load(`${name}/${path}`))
      if (path.split("/").includes("internal")) {
        if (byPath._tag === "Some") problems.push(`${name}/${path} can be imported`)
        continue
      }
      const index = hasTesting && path.startsWith("testing/") ? testing : root
      if (byPath._tag === "None") problems.push(`${name}/${path} cannot be imported`)
      else if (optionalNeeds(join(folder, `${path}.js`), optional).size > 0) continue
      else if (index[title] !== byPath.value && !isPartOf(index, byPath.value))
        problems.push(`${name} does not export ${path}`)
    }
    return problems
  })

export const problems = Effect.map(
  Effect.forEach(["@underlay/core", "@underlay/redis", "@underlay/llm", "@underlay/connections"], problemsOf),
  (all) => all.flat()
)
