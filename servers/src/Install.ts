/**
 * Programs that come as packages of npm and are too large to be dependencies of the workspace: they are installed once,
 * into `.cache/servers/<name>` of the repository, and one process at a time does it.
 */
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Machine from "./internal/machine.ts"
import * as Need from "./Need.ts"

/** A package could not be installed. */
export class InstallError extends Data.TaggedError("InstallError")<{
  readonly description: string
  readonly log?: string
}> {
  override get message(): string {
    return this.log === undefined ? this.description : `${this.description}\n${this.log}`
  }
}

/** Options of an installation. */
export interface InstallOptions {
  /** The folder's name: by default the package's, with `/` replaced. */
  readonly folder?: string | undefined
  /** Further packages that belong to it, such as `["peer@1.2.3"]`. */
  readonly with?: ReadonlyArray<string> | undefined
  /** How long all of it may take, in milliseconds: ten minutes. */
  readonly limit?: number | undefined
}

const root = (): string =>
  Path.resolve(process.env["UNDERLAY_CACHE"] ?? Path.resolve(import.meta.dirname, "../../.cache"), "servers")

const folderOf = (name: string): string => name.replace(/^@/, "").replace(/[^a-zA-Z0-9._-]/g, "-")

/** Where a program is, or would be: `path("chroma", "node_modules", "x")`. */
export const path = (folder: string, ...segments: ReadonlyArray<string>): string =>
  Path.join(root(), folderOf(folder), ...segments)

const marker = (folder: string): string => path(folder, ".installed.json")

/** Whether the package is there, whole and in this version. */
export const isInstalled = (name: string, version: string, options: InstallOptions = {}): boolean => {
  try {
    return Fs.readFileSync(marker(options.folder ?? name), "utf8") === written(specsOf(name, version, options))
  } catch {
    return false
  }
}

const specsOf = (name: string, version: string, options: InstallOptions): ReadonlyArray<string> => [
  `${name}@${version}`,
  ...(options.with ?? [])
]

const written = (specs: ReadonlyArray<string>): string => `${JSON.stringify(specs)}\n`

/**
 * Installs a package of npm with its dependencies, unless it is there, and gives its folder: what was installed is in
 * `node_modules` below it. Two processes that ask at once wait for one another.
 */
export const npm = (
  name: string,
  version: string,
  options: InstallOptions = {}
): Effect.Effect<string, InstallError> => {
  const folder = path(options.folder ?? name)
  const specs = specsOf(name, version, options)
  const limit = options.limit ?? 600_000
  const present = Effect.sync(() => isInstalled(name, version, options))
  return Effect.flatMap(present, (there) =>
    there
      ? Effect.succeed(folder)
      : locked(
          folder,
          limit,
          // another process may have done it while this one waited
          Effect.flatMap(present, (there) => (there ? Effect.void : install(folder, specs, limit)))
        ).pipe(Effect.as(folder))
  )
}

const install = (folder: string, specs: ReadonlyArray<string>, limit: number): Effect.Effect<void, InstallError> =>
  Effect.async((resume) => {
    const program = Need.program("npm")
    if (program === undefined) {
      resume(new InstallError({ description: `npm is not installed, so ${specs.join(" ")} cannot be` }))
      return
    }
    const mark = Path.join(folder, ".installed.json")
    Fs.mkdirSync(folder, { recursive: true })
    Fs.rmSync(mark, { force: true })
    // a project of its own, so that npm does not look further up for one
    Fs.writeFileSync(Path.join(folder, "package.json"), '{ "private": true }\n')
    const child = ChildProcess.spawn(
      program,
      [
        ...["install", "--prefix", folder, "--no-save", "--no-audit", "--no-fund", "--no-package-lock"],
        ...["--loglevel", "error", ...specs]
      ],
      { cwd: folder, stdio: ["ignore", "pipe", "pipe"] }
    )
    let log = ""
    const collect = (chunk: Buffer) => {
      log = (log + chunk.toString("utf8")).slice(-4_000)
    }
    child.stdout.on("data", collect)
    child.stderr.on("data", collect)
    const timer = setTimeout(() => child.kill("SIGKILL"), limit)
    const failed = (why: string) => {
      clearTimeout(timer)
      resume(new InstallError({ description: `npm could not install ${specs.join(" ")}: ${why}`, log }))
    }
    child.on("error", (error) => failed(error.message))
    child.on("close", (code, signal) => {
      if (code !== 0) {
        failed(signal === null ? `it ended with ${code}` : `it was ended by ${signal}`)
        return
      }
      clearTimeout(timer)
      // last of all, and by a rename: where it is, everything is
      Fs.writeFileSync(`${mark}.new`, written(specs))
      Fs.renameSync(`${mark}.new`, mark)
      resume(Effect.void)
    })
    return Effect.sync(() => {
      clearTimeout(timer)
      child.kill("SIGKILL")
    })
  })

/** Runs `effect` while no other process does with the same folder; what a dead process held is free. */
const locked = <A>(
  folder: string,
  limit: number,
  effect: Effect.Effect<A, InstallError>
): Effect.Effect<A, InstallError> =>
  Effect.suspend(() => {
    const lock = `${folder}.lock`
    let held = false
    const attempt = Effect.sync((): true | undefined => {
      Fs.mkdirSync(Path.dirname(lock), { recursive: true })
      // the lock is made elsewhere and moved there whole: it is never without its owner
      const mine = Fs.mkdtempSync(`${lock}-`)
      Fs.writeFileSync(Path.join(mine, "pid"), String(process.pid))
      try {
        Fs.renameSync(mine, lock)
        held = true
        return true
      } catch {
        Fs.rmSync(mine, { recursive: true, force: true })
      }
      if (isAbandoned(lock)) {
        try {
          const old = `${lock}-old-${process.pid}-${performance.now()}`
          Fs.renameSync(lock, old)
          // between the look and the move another process may have taken it
          if (isAbandoned(old)) Fs.rmSync(old, { recursive: true, force: true })
          else Fs.renameSync(old, lock)
        } catch {
          // somebody else was quicker
        }
      }
      return undefined
    })
    const late = () =>
      new InstallError({ description: `another process has held ${lock} for too long: remove it if there is none` })
    const release = Effect.sync(() => {
      if (held) Fs.rmSync(lock, { recursive: true, force: true })
    })
    return Effect.ensuring(Effect.zipRight(Machine.until(attempt, limit, late, 200), effect), release)
  })

const isAbandoned = (lock: string): boolean => {
  let owner: number
  try {
    owner = Number(Fs.readFileSync(Path.join(lock, "pid"), "utf8"))
  } catch {
    return false
  }
  try {
    process.kill(owner, 0)
    return false
  } catch (error) {
    return error instanceof Error && "code" in error && error.code === "ESRCH"
  }
}
