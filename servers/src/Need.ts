/**
 * What a test needs of the machine: a server program or the shared data. A missing need is a skip that is counted and
 * named on a user's machine, and a failure where everything is required (CI).
 */
import * as Fs from "node:fs"
import * as Path from "node:path"

/** True where a missing need must fail: in CI. */
export const everythingIsRequired = process.env["UNDERLAY_REQUIRE_ALL"] === "1" || process.env["CI"] === "true"

/** The path of a program: in PATH, or in one of the folders where Debian puts server programs. */
export const program = (name: string, folders: ReadonlyArray<string> = []): string | undefined => {
  const places = [...folders, ...(process.env["PATH"] ?? "").split(Path.delimiter), "/usr/sbin", "/usr/local/sbin"]
  for (const folder of places) {
    if (folder === "") continue
    const file = Path.join(folder, name)
    try {
      Fs.accessSync(file, Fs.constants.X_OK)
      if (Fs.statSync(file).isFile()) return file
    } catch {
      // not there: look on
    }
  }
  return undefined
}

/** The folders in which Debian keeps PostgreSQL's server programs, newest version first. */
export const postgresFolders = (): ReadonlyArray<string> => {
  const root = "/usr/lib/postgresql"
  try {
    return Fs.readdirSync(root)
      .sort((a, b) => Number(b) - Number(a))
      .map((version) => Path.join(root, version, "bin"))
  } catch {
    return []
  }
}

const repository = Path.resolve(import.meta.dirname, "../..")

/** The folder of the shared data (recordings, expected results): `UNDERLAY_SHARED`, by default beside the checkout. */
export const sharedData = Path.resolve(repository, process.env["UNDERLAY_SHARED"] ?? "../shared")

/** Where `Install` puts programs. */
const serversCache = Path.resolve(process.env["UNDERLAY_CACHE"] ?? Path.join(repository, ".cache"), "servers")

/** Whether the newest PostgreSQL of this machine has the extension pgvector installed. */
export const hasPgVector = (): boolean => {
  const [folder] = postgresFolders()
  if (folder === undefined) return false
  const version = Path.basename(Path.dirname(folder))
  return (
    Fs.existsSync(`/usr/share/postgresql/${version}/extension/vector.control`) &&
    Fs.existsSync(`/usr/lib/postgresql/${version}/lib/vector.so`)
  )
}

// What it takes to build it: root, a compiler and the headers of the server.
const canBuildPgVector = (): boolean => {
  const [folder] = postgresFolders()
  return (
    folder !== undefined &&
    process.getuid?.() === 0 &&
    Fs.existsSync(Path.join(folder, "../lib/pgxs/src/makefiles/pgxs.mk")) &&
    ["apt-get", "dpkg-source", "make", "gcc"].every((name) => program(name) !== undefined)
  )
}

/** The needs that a test may have, each with a test of its presence. */
export const needs = {
  "redis-server": () => program("redis-server") !== undefined,
  openssl: () => program("openssl") !== undefined,
  postgres: () =>
    program("initdb", postgresFolders()) !== undefined && program("postgres", postgresFolders()) !== undefined,
  pgvector: () => hasPgVector() || canBuildPgVector(),
  memcached: () => program("memcached") !== undefined,
  chroma: () => Fs.existsSync(Path.join(serversCache, "chroma", ".installed.json")),
  "dynamodb-local": () =>
    program("java") !== undefined &&
    Fs.existsSync(Path.join(serversCache, "dynamodb-local", "2.9.30", "emulator", "DynamoDBLocal.jar")),
  radosgw: () => ["radosgw", "ceph-mon", "ceph-osd", "ceph-mgr", "ceph"].every((name) => program(name) !== undefined),
  documentdb: () => Fs.existsSync(Path.join(serversCache, "documentdb", ".installed.json")),
  chromium: () => program("chromium") !== undefined,
  "llm-corpus": () => Fs.existsSync(Path.join(sharedData, "llm-corpus", "index.json")),
  openapi: () => Fs.existsSync(Path.join(sharedData, "openapi", "openai.json")),
  "token-truth": () => Fs.existsSync(Path.join(sharedData, "token-truth.jsonl"))
} as const

/** The name of a need. */
export type Need = keyof typeof needs

/** What may be missing everywhere, in CI too: it cannot be had on every machine. Its skips are counted and named. */
export const optional: ReadonlySet<Need> = new Set<Need>(["documentdb"])

/**
 * Whether a suite is to be skipped for want of `need`: `describe.skipIf(Need.missing("redis-server"))(Need.title("…",
 * "redis-server"), …)`. Never where everything is required, but for what is optional: there the suite runs and fails by
 * itself.
 */
export const missing = (need: Need): boolean => (!everythingIsRequired || optional.has(need)) && !needs[need]()

/** A suite's title with its need, so that the runner can name what a skip was for. */
export const title = (text: string, need: Need): string => `${text} [needs ${need}]`
