/** What the servers share: processes that do not outlive this one, free ports, and waiting by the machine's own clock. */
import * as ChildProcess from "node:child_process"
import * as Crypto from "node:crypto"
import * as Fs from "node:fs"
import * as Net from "node:net"
import * as Os from "node:os"
import * as Path from "node:path"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Need from "../Need.ts"

/** The address on which all servers listen. */
export const host = "127.0.0.1"

/** A program that is started, ended and started again. */
export interface Daemon {
  /** The process id while it runs. */
  readonly pid: () => number | undefined
  /** The end of what it printed since it was started. */
  readonly log: () => string
  /** Starts it where it does not run. */
  readonly launch: Effect.Effect<void>
  /** Sends the signal and returns when the process is gone; a frozen one is thawed for any but SIGKILL. */
  readonly end: (signal: NodeJS.Signals) => Effect.Effect<void>
  /** SIGSTOP. Returns when the kernel has stopped every thread: until then it may answer once more. */
  readonly freeze: Effect.Effect<void>
  /** SIGCONT. */
  readonly thaw: Effect.Effect<void>
}

/** A program that is killed when the scope closes, when this process ends, and when this process is killed. */
export const daemon = (
  binary: string,
  argv: () => ReadonlyArray<string>
): Effect.Effect<Daemon, never, Scope.Scope> => {
  let child: ChildProcess.ChildProcess | undefined
  let output = ""
  const alive = (): ChildProcess.ChildProcess | undefined =>
    child === undefined || child.exitCode !== null || child.signalCode !== null ? undefined : child

  const launch = Effect.sync(() => {
    if (alive() !== undefined) return
    output = ""
    const [file, argumentsOf] = guarded(binary, argv())
    const spawned = ChildProcess.spawn(file, argumentsOf, { stdio: ["ignore", "pipe", "pipe"] })
    const collect = (chunk: Buffer) => {
      output = (output + chunk.toString("utf8")).slice(-20_000)
    }
    spawned.stdout.on("data", collect)
    spawned.stderr.on("data", collect)
    spawned.on("error", (error) => {
      output += error.message
      if (spawned.pid === undefined) children.delete(spawned)
    })
    child = spawned
    children.add(spawned)
    spawned.once("exit", () => children.delete(spawned))
  })

  const end = (name: NodeJS.Signals) =>
    Effect.async<void>((resume) => {
      const running = alive()
      child = undefined
      // a program that could not be started has no process id and no exit
      if (running?.pid === undefined) {
        resume(Effect.void)
        return
      }
      const last = setTimeout(() => running.kill("SIGKILL"), 10_000)
      running.once("exit", () => {
        clearTimeout(last)
        resume(Effect.void)
      })
      if (name !== "SIGKILL") running.kill("SIGCONT")
      running.kill(name)
    })

  return Effect.as(
    Effect.addFinalizer(() => end("SIGKILL")),
    {
      pid: () => alive()?.pid,
      log: () => output,
      launch,
      end,
      freeze: Effect.suspend(() => {
        const running = alive()
        return running?.pid === undefined ? Effect.void : freeze([running.pid])
      }),
      thaw: Effect.sync(() => void alive()?.kill("SIGCONT"))
    }
  )
}

/**
 * Stops processes (SIGSTOP) and returns when none of their threads runs any more, or they are gone. The signal is only
 * delivered when a thread is scheduled: on a busy machine a server answers for a while after it was sent.
 */
export const freeze = (pids: ReadonlyArray<number>): Effect.Effect<void> =>
  Effect.suspend(() => {
    for (const pid of pids) {
      try {
        process.kill(pid, "SIGSTOP")
      } catch {
        // gone meanwhile
      }
    }
    return until(
      Effect.sync(() => (pids.every(stopped) ? true : undefined)),
      10_000,
      () => `a process of ${pids.join(", ")} goes on 10 s after SIGSTOP`,
      1
    )
  }).pipe(
    Effect.catchAll((late) => Effect.dieMessage(late)),
    Effect.asVoid
  )

/** Whether every thread of the process is stopped, or the process has ended. */
const stopped = (pid: number): boolean => {
  if (process.platform !== "linux") {
    const { stdout } = ChildProcess.spawnSync("ps", ["-o", "state=", "-p", String(pid)], { encoding: "utf8" })
    return /^$|^[TZ]/.test(stdout.trim())
  }
  const threads = attempt(() => Fs.readdirSync(`/proc/${pid}/task`)) ?? []
  return threads.every((thread) => {
    const stat = attempt(() => Fs.readFileSync(`/proc/${pid}/task/${thread}/stat`, "latin1"))
    // behind the program's name, which may hold anything
    return stat === undefined || /^\) [TtZX]/.test(stat.slice(stat.lastIndexOf(")")))
  })
}

/** What is there, where it is still there. */
const attempt = <A>(read: () => A): A | undefined => {
  try {
    return read()
  } catch {
    return undefined
  }
}

/** A temporary folder that goes with the scope. */
export const folder = (prefix: string): Effect.Effect<string, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      sweep()
      const path = Fs.mkdtempSync(Path.join(Os.tmpdir(), `${prefix}${process.pid}-`))
      folders.add(path)
      return path
    }),
    (path) =>
      Effect.sync(() => {
        Fs.rmSync(path, { recursive: true, force: true, maxRetries: 5 })
        folders.delete(path)
      })
  )

/** What this process started and made and what is there still: none survives it, even when no scope closes. */
const children = new Set<ChildProcess.ChildProcess>()
const folders = new Set<string>()
const clean = (): void => {
  for (const child of children) child.kill("SIGKILL")
  for (const path of folders) Fs.rmSync(path, { recursive: true, force: true, maxRetries: 5 })
}
process.on("exit", clean)
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  const ended = () => {
    clean()
    process.removeListener(signal, ended)
    // where nobody else listens, the signal does what it would have done
    if (process.listenerCount(signal) === 0) process.kill(process.pid, signal)
  }
  process.on(signal, ended)
}
// a worker whose test runner is gone: it would go on until its tests are over, and nobody would hear of them
process.once("disconnect", () => {
  clean()
  // its exit() is one that vitest refuses
  if (process.env["VITEST"] !== undefined) process.kill(process.pid, "SIGKILL")
})

let swept = false
/** Removes the folders of processes that were killed and could not do it themselves. */
const sweep = (): void => {
  if (swept) return
  swept = true
  for (const name of Fs.readdirSync(Os.tmpdir())) {
    const pid = /^underlay-[a-z]+-(\d+)-/.exec(name)?.[1]
    if (pid === undefined || exists(Number(pid))) continue
    Fs.rmSync(Path.join(Os.tmpdir(), name), { recursive: true, force: true })
  }
}

const exists = (pid: number): boolean => {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    // another user's process is one too
    return error instanceof Error && "code" in error && error.code === "EPERM"
  }
}

/**
 * The command with which the kernel kills the program when this process dies without a farewell, as a test runner's
 * workers do when they are killed. Where there is no `setpriv` the program is started as it is.
 */
const guarded = (binary: string, argv: ReadonlyArray<string>): readonly [string, ReadonlyArray<string>] => {
  const setpriv = process.platform === "linux" ? Need.program("setpriv") : undefined
  return setpriv === undefined ? [binary, argv] : [setpriv, ["--pdeathsig", "KILL", binary, ...argv]]
}

/** Ports that this process gave out: none is given twice. */
const given = new Set<number>()

/**
 * A loopback port on which nothing listens. Below the range from which the kernel takes the ports of outgoing
 * connections: one of those would keep a server from coming back to its port.
 */
export const freePort: Effect.Effect<number> = Effect.async((resume) => {
  const attempt = (left: number) => {
    const candidate = left > 0 ? Crypto.randomInt(10_240, 32_768) : 0
    if (given.has(candidate)) {
      attempt(left - 1)
      return
    }
    const server = Net.createServer()
    server.once("error", () => attempt(left - 1))
    server.listen(candidate, host, () => {
      const address = server.address()
      const port = typeof address === "object" && address !== null ? address.port : candidate
      given.add(port)
      server.close(() => resume(Effect.succeed(port)))
    })
  }
  attempt(100)
})

/** A pause of the machine's own clock: a test's clock does not make a server start faster. */
export const pause = (millis: number): Effect.Effect<void> =>
  Effect.async((resume) => {
    const timer = setTimeout(() => resume(Effect.void), millis)
    return Effect.sync(() => clearTimeout(timer))
  })

/** Looks every `every` milliseconds until `check` finds something, at most `limit` milliseconds long. */
export const until = <A, E, E2>(
  check: Effect.Effect<A | undefined, E>,
  limit: number,
  late: () => E2,
  every = 20
): Effect.Effect<A, E | E2> =>
  Effect.suspend(() => {
    const deadline = performance.now() + limit
    const look: Effect.Effect<A, E | E2> = Effect.flatMap(check, (found) => {
      if (found !== undefined) return Effect.succeed(found)
      if (performance.now() > deadline) return Effect.fail(late())
      return Effect.zipRight(pause(every), look)
    })
    return look
  })
