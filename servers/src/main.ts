/**
 * The test servers by one command.
 *
 *     pnpm servers up [fast|full]           starts them in the background and says where they are
 *     pnpm servers status                   says what runs
 *     pnpm servers down                     stops them
 *     pnpm servers install [fast|full|name] what npm or a compiler brings for them
 *
 * What cannot be started or installed is said, with the reason, and the exit code is 1 unless it is optional.
 */
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import * as Catalog from "./Catalog.ts"
import * as Install from "./Install.ts"
import * as Machine from "./internal/machine.ts"

/** How one server went. */
interface Outcome {
  readonly name: string
  readonly optional: boolean
  readonly tookMs: number
  readonly environment?: Catalog.Environment
  readonly problem?: string
}

/** What runs in the background. */
interface State {
  readonly pid: number
  readonly tier: string
  readonly tookMs: number
  readonly servers: ReadonlyArray<Outcome>
}

const stateFile = Install.path("up.json")
const logFile = Install.path("up.log")

const out = (line: string): void => {
  process.stdout.write(`${line}\n`)
}

const timedOutcome = (
  entry: Catalog.Entry,
  effect: Effect.Effect<Catalog.Environment, Catalog.Failure>
): Effect.Effect<Outcome> =>
  Effect.suspend(() => {
    const started = performance.now()
    return Effect.map(Effect.exit(effect), (exit): Outcome => {
      const common = {
        name: entry.name,
        optional: entry.optional === true,
        tookMs: Math.round(performance.now() - started)
      }
      if (Exit.isSuccess(exit)) return { ...common, environment: exit.value }
      const failure = Cause.failureOption(exit.cause)
      return { ...common, problem: failure._tag === "Some" ? failure.value.message : Cause.pretty(exit.cause) }
    })
  })

const show = (outcomes: ReadonlyArray<Outcome>): void => {
  const width = Math.max(...outcomes.map(({ name }) => name.length))
  for (const { environment, name, optional, problem, tookMs } of outcomes) {
    const took = `${(tookMs / 1_000).toFixed(1)} s`.padStart(7)
    const first = problem?.trim().split("\n")[0]
    const said =
      first === undefined
        ? Object.entries(environment ?? {})
            .map(([variable, value]) => `${variable}=${value}`)
            .join(" ")
        : `not there${optional ? " (optional)" : ""}: ${first}`
    out(`${name.padEnd(width)} ${took}  ${said}`.trimEnd())
  }
}

const codeOf = (outcomes: ReadonlyArray<Outcome>): number =>
  outcomes.some(({ optional, problem }) => problem !== undefined && !optional) ? 1 : 0

/** Until this process is told to end. */
const told = Effect.async<void>((resume) => {
  // A timer keeps the process, which may have nothing else to do.
  const timer = setInterval(() => {}, 60_000)
  const end = () => {
    clearInterval(timer)
    resume(Effect.void)
  }
  process.once("SIGTERM", end)
  process.once("SIGINT", end)
})

/**
 * The background process: starts all of a tier at once, writes down how it went and stays until it is told to end, which
 * it can be while they are being started, too.
 */
const background = (tier: "fast" | "full"): Effect.Effect<void> =>
  Effect.raceFirst(
    told,
    Effect.scoped(
      Effect.gen(function* () {
        const started = performance.now()
        const scope = yield* Effect.scope
        const servers = yield* Effect.forEach(
          Catalog.ofTier(tier),
          (entry) => timedOutcome(entry, Effect.provideService(entry.start, Scope.Scope, scope)),
          { concurrency: "unbounded" }
        )
        const state: State = { pid: process.pid, tier, tookMs: Math.round(performance.now() - started), servers }
        yield* Effect.acquireRelease(
          Effect.sync(() => {
            Fs.writeFileSync(`${stateFile}.new`, JSON.stringify(state))
            Fs.renameSync(`${stateFile}.new`, stateFile)
          }),
          () => Effect.sync(() => Fs.rmSync(stateFile, { force: true }))
        )
        return yield* Effect.never
      })
    )
  )

const read = (): State | undefined => {
  try {
    const state: State = JSON.parse(Fs.readFileSync(stateFile, "utf8"))
    process.kill(state.pid, 0)
    return state
  } catch {
    return undefined
  }
}

const up = (tier: "fast" | "full"): Effect.Effect<number, Catalog.Failure> =>
  Effect.gen(function* () {
    const running = read()
    if (running !== undefined) {
      out(`They run already (${running.tier}, process ${running.pid}): pnpm servers down stops them.`)
      show(running.servers)
      return codeOf(running.servers)
    }
    Fs.mkdirSync(Path.dirname(stateFile), { recursive: true })
    Fs.rmSync(stateFile, { force: true })
    const log = Fs.openSync(logFile, "w")
    const child = ChildProcess.spawn(
      process.execPath,
      [...process.execArgv, import.meta.filename, "background", tier],
      { detached: true, stdio: ["ignore", log, log] }
    )
    child.unref()
    // Who is stopped while he waits for them leaves none of them.
    for (const [signal, code] of [
      ["SIGHUP", 129],
      ["SIGINT", 130],
      ["SIGTERM", 143]
    ] as const) {
      process.once(signal, () => {
        child.kill("SIGTERM")
        process.exit(code)
      })
    }
    const state = yield* Machine.until(
      Effect.suspend(() =>
        child.exitCode === null && child.signalCode === null
          ? Effect.sync(read)
          : Effect.fail({ message: `they could not be started:\n${Fs.readFileSync(logFile, "utf8").slice(-2_000)}` })
      ),
      180_000,
      () => {
        child.kill("SIGTERM")
        return { message: `they were not ready within 180 s, and were stopped: see ${logFile}` }
      },
      50
    )
    show(state.servers)
    const ready = state.servers.filter(({ problem }) => problem === undefined).length
    out(`${ready} of ${state.servers.length} are ready after ${(state.tookMs / 1_000).toFixed(1)} s.`)
    return codeOf(state.servers)
  })

const down: Effect.Effect<number, Catalog.Failure> = Effect.gen(function* () {
  const state = read()
  if (state === undefined) {
    out("Nothing runs.")
    return 0
  }
  process.kill(state.pid, "SIGTERM")
  yield* Machine.until(
    Effect.sync(() => (read() === undefined ? true : undefined)),
    60_000,
    () => ({ message: `process ${state.pid} did not end within 60 s` }),
    50
  )
  out("They are stopped.")
  return 0
})

const status: Effect.Effect<number> = Effect.sync(() => {
  const state = read()
  if (state === undefined) out("Nothing runs.")
  else show(state.servers)
  return 0
})

const install = (what: string): Effect.Effect<number, Catalog.Failure> =>
  Effect.gen(function* () {
    const wanted =
      what === "fast" || what === "full" ? Catalog.ofTier(what) : Catalog.entries.filter(({ name }) => name === what)
    if (wanted.length === 0) {
      return yield* Effect.fail({
        message: `there is no ${what}: fast, full or ${Catalog.entries.map(({ name }) => name).join(", ")}`
      })
    }
    // One after the other: npm and the compiler want the machine for themselves.
    const outcomes = yield* Effect.forEach(
      wanted.flatMap((entry) => (entry.install === undefined ? [] : [{ entry, install: entry.install }])),
      ({ entry, install }) => timedOutcome(entry, Effect.as(install, { state: "installed" }))
    )
    if (outcomes.length === 0) out("Nothing is to be installed by npm: Debian's packages bring it.")
    else show(outcomes)
    return codeOf(outcomes)
  })

const tierOf = (text: string | undefined): "fast" | "full" => (text === "full" ? "full" : "fast")

const [command, argument] = process.argv.slice(2)
const program: Effect.Effect<number, Catalog.Failure> = Effect.suspend(() => {
  switch (command) {
    case "up":
      return up(tierOf(argument))
    case "down":
      return down
    case "status":
      return status
    case "install":
      return install(argument ?? "full")
    case "background":
      return Effect.as(background(tierOf(argument)), 0)
    default:
      return Effect.fail({ message: "pnpm servers up [fast|full] | down | status | install [fast|full|name]" })
  }
})

const exit = await Effect.runPromiseExit(program)
if (Exit.isFailure(exit)) {
  const failure = Cause.failureOption(exit.cause)
  process.stderr.write(`${failure._tag === "Some" ? failure.value.message : Cause.pretty(exit.cause)}\n`)
}
process.exit(Exit.isSuccess(exit) ? exit.value : 1)
