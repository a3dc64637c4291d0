/** What the tests of the servers share: a bare connection, and waiting for what happens in its own time. */
import * as Net from "node:net"
import * as Machine from "@underlay/servers/internal/machine"
import { Effect, type Scope } from "effect"

/** A pause of the machine's own clock. */
export const pause = Machine.pause

/** A connection and what became of it. */
export interface Dialled {
  readonly socket: Net.Socket
  readonly send: (...parts: ReadonlyArray<string>) => void
  /** All that was received. */
  readonly text: () => string
  /** In how many pieces. */
  readonly chunks: () => number
  /** Whether the other side said that it will say no more. */
  readonly finished: () => boolean
  /** The error that ended it, `closed` when there was none; nothing while it lives. */
  readonly ended: () => string | undefined
}

/** Opens a connection. */
export const open = (
  place: { readonly host: string; readonly port: number },
  options: { readonly allowHalfOpen?: boolean } = {}
): Dialled => {
  const socket = Net.connect({ host: place.host, port: place.port, ...options })
  let text = ""
  let chunks = 0
  let finished = false
  let failure: string | undefined
  let ended: string | undefined
  socket.setNoDelay(true)
  socket.on("data", (chunk) => {
    text += chunk.toString("utf8")
    chunks++
  })
  socket.on("end", () => {
    finished = true
  })
  socket.on("error", (error: NodeJS.ErrnoException) => {
    failure = error.code ?? error.message
  })
  socket.on("close", () => {
    ended = failure ?? "closed"
  })
  return {
    socket,
    send: (...parts) => {
      socket.write(`*${parts.length}\r\n${parts.map((part) => `$${Buffer.byteLength(part)}\r\n${part}\r\n`).join("")}`)
    },
    text: () => text,
    chunks: () => chunks,
    finished: () => finished,
    ended: () => ended
  }
}

/** A connection for the life of the scope. */
export const dial = (
  place: { readonly host: string; readonly port: number },
  options: { readonly allowHalfOpen?: boolean } = {}
): Effect.Effect<Dialled, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => open(place, options)),
    (dialled) => Effect.sync(() => dialled.socket.destroy())
  )

/** Waits until it holds of what the effect gives, at most half a minute. */
export const becomes = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  holds: (value: A) => boolean,
  every = 10
): Effect.Effect<void, E, R> =>
  Effect.suspend(() => {
    const deadline = performance.now() + 30_000
    const look: Effect.Effect<void, E, R> = Effect.flatMap(effect, (value) => {
      if (holds(value)) return Effect.void
      if (performance.now() > deadline) return Effect.dieMessage("it did not come to hold within 30 s")
      return Effect.zipRight(pause(every), look)
    })
    return look
  })

/** Waits until it holds, at most half a minute. */
export const eventually = (holds: () => boolean, every = 10): Effect.Effect<void> =>
  becomes(Effect.sync(holds), (value) => value, every)

/** Whether a process of that id runs. */
export const isRunning = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}
