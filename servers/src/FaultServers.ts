/**
 * Servers that are there and do not answer, each in another way: what a client's limits of time are for. They speak no
 * protocol, so that any client can be sent to them.
 */
import * as ChildProcess from "node:child_process"
import * as Net from "node:net"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Machine from "./internal/machine.ts"

/** One of them could not be started. */
export class FaultServerError extends Data.TaggedError("FaultServerError")<{ readonly description: string }> {
  override get message(): string {
    return this.description
  }
}

/** A server and what became of its connections. */
export interface FaultServer {
  readonly host: string
  readonly port: number
  /** How many connections there are now, and how many there ever were; 0 where another process has them. */
  readonly open: Effect.Effect<number>
  readonly accepted: Effect.Effect<number>
}

const host = "127.0.0.1"

const listening = (
  what: string,
  onConnection: (socket: Net.Socket) => void
): Effect.Effect<FaultServer, FaultServerError, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.async<
      { readonly server: Net.Server; readonly sockets: Set<Net.Socket>; readonly made: FaultServer },
      FaultServerError
    >((resume) => {
      const sockets = new Set<Net.Socket>()
      let accepted = 0
      const server = Net.createServer((socket) => {
        accepted++
        sockets.add(socket)
        socket.on("error", () => {})
        socket.on("close", () => sockets.delete(socket))
        onConnection(socket)
      })
      server.once("error", (error) =>
        resume(new FaultServerError({ description: `the ${what} server cannot listen: ${error.message}` }))
      )
      server.listen(0, host, () => {
        const address = server.address()
        const port = typeof address === "object" && address !== null ? address.port : 0
        resume(
          Effect.succeed({
            server,
            sockets,
            made: {
              host,
              port,
              open: Effect.sync(() => sockets.size),
              accepted: Effect.sync(() => accepted)
            }
          })
        )
      })
    }),
    ({ server, sockets }) =>
      Effect.async<void>((resume) => {
        for (const socket of sockets) socket.destroy()
        server.close(() => resume(Effect.void))
      })
  ).pipe(Effect.map(({ made }) => made))

/** Accepts connections, reads what comes and never answers. */
export const blackhole: Effect.Effect<FaultServer, FaultServerError, Scope.Scope> = listening("blackhole", (socket) =>
  socket.resume()
)

/**
 * Accepts connections and takes nothing from them: who begins a TLS handshake never sees the end of it, and who sends much
 * finds the way full.
 */
export const stalling: Effect.Effect<FaultServer, FaultServerError, Scope.Scope> = listening("stalling", (socket) =>
  socket.pause()
)

/** Resets (RST) each connection at the first byte that comes on it. */
export const resetting: Effect.Effect<FaultServer, FaultServerError, Scope.Scope> = listening("resetting", (socket) =>
  socket.once("data", () => socket.resetAndDestroy())
)

/**
 * Answers a byte at a time, one every `millis` (1 s): by default the head of an HTTP answer that never ends, so that there
 * is always something new and never enough.
 */
export const dripping = (
  options: { readonly text?: string | undefined; readonly millis?: number | undefined } = {}
): Effect.Effect<FaultServer, FaultServerError, Scope.Scope> =>
  listening("dripping", (socket) => {
    const text = options.text ?? "HTTP/1.1 200 OK\r\nx: "
    let at = 0
    const drip = (): void => {
      // After its end, one and the same letter for ever.
      socket.write(text[at] ?? "x")
      at++
    }
    socket.once("data", () => {
      socket.resume()
      drip()
      const timer = setInterval(drip, options.millis ?? 1_000)
      socket.on("close", () => clearInterval(timer))
    })
  })

/**
 * A process that listens and was stopped (SIGSTOP): its kernel still accepts connections and takes bytes, and nobody is
 * behind them. That is what a peer looks like that went away without a word.
 */
export const halfOpen: Effect.Effect<FaultServer, FaultServerError, Scope.Scope> = Effect.acquireRelease(
  Effect.async<{ readonly child: ChildProcess.ChildProcess; readonly port: number }, FaultServerError>((resume) => {
    const child = ChildProcess.spawn(
      process.execPath,
      [
        "-e",
        `const server = require("node:net").createServer((socket) => socket.on("error", () => {}).resume())
server.listen(0, "${host}", () => process.stdout.write(server.address().port + "\\n"))`
      ],
      { stdio: ["ignore", "pipe", "ignore"] }
    )
    child.once("error", (error) =>
      resume(new FaultServerError({ description: `the half-open server cannot be started: ${error.message}` }))
    )
    child.stdout.once("data", (bytes: Buffer) => {
      const frozen = child.pid === undefined ? Effect.void : Machine.freeze([child.pid])
      resume(Effect.as(frozen, { child, port: Number(bytes.toString().trim()) }))
    })
    return Effect.sync(() => void child.kill("SIGKILL"))
  }),
  ({ child }) =>
    Effect.async<void>((resume) => {
      if (child.exitCode !== null || child.signalCode !== null) return resume(Effect.void)
      child.once("exit", () => resume(Effect.void))
      child.kill("SIGKILL")
    })
).pipe(Effect.map(({ port }) => ({ host, port, open: Effect.succeed(0), accepted: Effect.succeed(0) })))

/** All of them by name. */
export const all: Readonly<Record<string, Effect.Effect<FaultServer, FaultServerError, Scope.Scope>>> = {
  blackhole,
  stalling,
  resetting,
  dripping: dripping(),
  halfOpen
}
