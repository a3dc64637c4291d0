/**
 * One server of memcached: one socket on which requests are pipelined. It is made with the first request and again after
 * it was lost, with a pause that grows. A request is sent once; whoever does not wait for its reply any more has it
 * thrown away in its turn, and where nothing comes at all the socket is dropped, so the stream is never out of step.
 */
import * as Crypto from "node:crypto"
import * as Net from "node:net"
import * as Tls from "node:tls"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Protocol from "./protocol.ts"
import type { Address } from "./ring.ts"

/** Why there is no reply. `sent` is false where the server cannot have seen the request. */
export interface Failure {
  readonly reason: "Unavailable" | "Timeout" | "Throttled" | "Closed" | "Authentication" | "Unknown"
  readonly description: string
  readonly sent: boolean
  readonly code?: string | undefined
  /** Milliseconds until it is tried again. */
  readonly retryAfter?: number | undefined
  readonly cause?: unknown
}

export interface Options {
  readonly address: Address
  readonly connectTimeout: number
  readonly commandTimeout: number
  readonly maxPending: number
  readonly tls: Tls.ConnectionOptions | undefined
  readonly login: (() => { readonly username: string; readonly password: string }) | undefined
}

type Piece = string | Uint8Array

/** Called once, with a reply or with why there is none. */
type Settle = (...outcome: [reply: Protocol.Reply, failure: undefined] | [reply: undefined, failure: Failure]) => void

interface Request {
  readonly pieces: ReadonlyArray<Piece>
  /** `undefined` once nobody waits any more. */
  settle: Settle | undefined
  due: number
}

/** How long a lost server is left alone, in milliseconds. */
const [firstPause, longestPause] = [50, 5_000]

const codeOf = (cause: unknown): string | undefined =>
  cause instanceof Error && "code" in cause && typeof cause.code === "string" ? cause.code : undefined

/** What is not sent yet: it goes out once a turn. */
const mostHeld = 64 * 1024 * 1024

export class Node {
  private socket: Net.Socket | undefined
  private state: "none" | "connecting" | "ready" = "none"
  /** Sent, in the order in which the replies will come. */
  private sent: Array<Request> = []
  private sentFrom = 0
  /** For the socket that is being made. */
  private waiting = new Set<Request>()
  private outgoing: Array<Piece> = []
  private flushing = false
  private timer: NodeJS.Timeout | undefined
  private lastHeard = 0
  private failures = 0
  private notBefore = 0
  private lastFailure: Failure | undefined
  private closed = false
  private readonly acquired = { count: 0, totalMs: 0, maxMs: 0 }
  private connectingSince = 0
  private readonly options: Options

  constructor(options: Options) {
    this.options = options
  }

  /** Sends a request; what is made of its reply, or of there being none, is what comes of it. */
  exchange<A, E>(
    pieces: ReadonlyArray<Piece>,
    onReply: (reply: Protocol.Reply) => Effect.Effect<A, E>,
    onFailure: (failure: Failure) => Effect.Effect<A, E>
  ): Effect.Effect<A, E> {
    // one step of Effect and no more: this is on the path of every call
    return Effect.async((resume) => {
      const request = this.begin(pieces, (...outcome) =>
        resume(outcome[1] === undefined ? onReply(outcome[0]) : onFailure(outcome[1]))
      )
      return request === undefined ? undefined : Effect.sync(() => this.abandon(request))
    })
  }

  /** Sends requests at once and gives their replies, in order; one failure is that of all. */
  exchangeAll(
    requests: ReadonlyArray<ReadonlyArray<Piece>>
  ): Effect.Effect<ReadonlyArray<Either.Either<Protocol.Reply, Failure>>> {
    if (requests.length === 0) return Effect.succeed([])
    return Effect.async((resume) => {
      const results: Array<Either.Either<Protocol.Reply, Failure>> = new Array(requests.length)
      const begun: Array<Request> = []
      let left = requests.length
      for (const [index, pieces] of requests.entries()) {
        const request = this.begin(
          pieces,
          (...outcome) => {
            results[index] = outcome[1] === undefined ? Either.right(outcome[0]) : Either.left(outcome[1])
            if (--left === 0) resume(Effect.succeed(results))
          },
          true
        )
        if (request !== undefined) begun.push(request)
      }
      return Effect.sync(() => {
        for (const request of begun) this.abandon(request)
      })
    })
  }

  get counts() {
    return {
      open: this.state === "ready" ? 1 : 0,
      busy: this.state === "ready" && this.pending > 0 ? 1 : 0,
      waiting: this.waiting.size,
      acquired: this.acquired
    }
  }

  /** Ends it: what is under way fails, and so does whatever comes. */
  close(): void {
    this.closed = true
    this.lose({ reason: "Closed", description: "the connection is released", sent: true })
  }

  private get pending(): number {
    return this.sent.length - this.sentFrom
  }

  private begin(pieces: ReadonlyArray<Piece>, settle: Settle, many = false): Request | undefined {
    const refused = this.refusal(many)
    if (refused !== undefined) {
      settle(undefined, refused)
      return undefined
    }
    const request: Request = { pieces, settle, due: performance.now() + this.options.commandTimeout }
    if (this.state === "ready") this.send(request)
    else {
      this.waiting.add(request)
      if (this.state === "none") this.connect()
    }
    return request
  }

  private refusal(many: boolean): Failure | undefined {
    if (this.closed) return { reason: "Closed", description: "the connection is released", sent: false }
    // many at once are one call, which must not be in its own way
    if (!many && this.pending + this.waiting.size >= this.options.maxPending) {
      return {
        reason: "Throttled",
        description: `${this.options.maxPending} requests to one server are under way already: send fewer at once`,
        sent: false
      }
    }
    if (this.state === "ready" && (this.socket?.writableLength ?? 0) > mostHeld) {
      return { reason: "Throttled", description: "the server takes what is sent too slowly: send less", sent: false }
    }
    if (this.state === "none" && this.failures > 0) {
      const left = this.notBefore - performance.now()
      if (left > 0) {
        return {
          reason: this.lastFailure?.reason === "Authentication" ? "Authentication" : "Unavailable",
          description: `the server could not be reached a moment ago, and is not asked again yet: ${this.lastFailure?.description ?? ""}`,
          sent: false,
          code: this.lastFailure?.code,
          retryAfter: Math.ceil(left)
        }
      }
    }
    return undefined
  }

  private abandon(request: Request): void {
    request.settle = undefined
    // what is sent already has its reply thrown away
    this.waiting.delete(request)
  }

  private send(request: Request): void {
    this.sent.push(request)
    for (const piece of request.pieces) this.outgoing.push(piece)
    this.watch()
    if (this.flushing) return
    this.flushing = true
    // all that is begun in one turn goes out together
    queueMicrotask(() => this.flush())
  }

  private flush(): void {
    this.flushing = false
    const { outgoing, socket } = this
    if (outgoing.length === 0) return
    this.outgoing = []
    if (socket === undefined || this.state !== "ready") return
    if (outgoing.length === 1) {
      socket.write(outgoing[0] ?? "")
      return
    }
    socket.cork()
    let text = ""
    for (const piece of outgoing) {
      if (typeof piece === "string") text += piece
      else {
        if (text !== "") socket.write(text)
        text = ""
        socket.write(piece)
      }
    }
    if (text !== "") socket.write(text)
    socket.uncork()
  }

  private connect(): void {
    const { address, connectTimeout, login, tls } = this.options
    this.state = "connecting"
    this.connectingSince = performance.now()
    const reader = new Protocol.Reader()
    const socket =
      tls === undefined
        ? Net.connect({ host: address.host, port: address.port, noDelay: true, keepAlive: true })
        : Tls.connect({
            ...(Net.isIP(address.host) === 0 ? { servername: address.host } : {}),
            ...tls,
            host: address.host,
            port: address.port
          })
    if (tls !== undefined) socket.setNoDelay(true).setKeepAlive(true)
    this.socket = socket
    const mine = (): boolean => this.socket === socket
    const late = setTimeout(() => {
      if (mine()) {
        this.lose({
          reason: "Timeout",
          description: `the server was not connected to within ${connectTimeout} ms`,
          sent: false
        })
      }
    }, connectTimeout)
    this.connecting = late
    const ready = () => {
      clearTimeout(late)
      this.state = "ready"
      this.failures = 0
      this.lastFailure = undefined
      const took = performance.now() - this.connectingSince
      const waited = [...this.waiting]
      this.waiting.clear()
      this.acquired.count += waited.length
      this.acquired.totalMs += took * waited.length
      this.acquired.maxMs = Math.max(this.acquired.maxMs, took)
      this.lastHeard = performance.now()
      for (const request of waited) {
        request.due = this.lastHeard + this.options.commandTimeout
        this.send(request)
      }
    }
    socket.on("error", (cause) => {
      if (!mine()) return
      this.lose({
        reason: "Unavailable",
        description: this.state === "connecting" ? "the server cannot be reached" : "the connection was lost",
        sent: true,
        code: codeOf(cause),
        cause
      })
    })
    socket.on("close", () => {
      clearTimeout(late)
      if (mine()) {
        this.lose({
          reason: this.state === "connecting" && login !== undefined ? "Authentication" : "Unavailable",
          description:
            this.state === "connecting" && login !== undefined
              ? "the server closed the connection at the login"
              : "the server closed the connection",
          sent: true
        })
      }
    })
    let loggedIn = login === undefined
    const take = (reply: Protocol.Reply): void => {
      if (loggedIn) {
        this.receive(reply)
        return
      }
      if (reply.code === "STORED") {
        loggedIn = true
        ready()
      } else this.lose({ reason: "Authentication", description: "the server refused the login", sent: false })
    }
    socket.on("data", (piece: Buffer) => {
      if (!mine()) return
      this.lastHeard = performance.now()
      try {
        reader.take(piece, (reply) => {
          if (mine()) take(reply)
        })
      } catch (cause) {
        this.lose({
          reason: "Unknown",
          description: "what came is no reply of memcached's protocol: the connection was dropped",
          sent: true,
          cause
        })
      }
    })
    socket.once(tls === undefined ? "connect" : "secureConnect", () => {
      if (!mine()) return
      if (login === undefined) ready()
      else {
        const { password, username } = login()
        const text = Buffer.from(`${username} ${password}`, "utf8")
        socket.write(`set auth 0 0 ${text.length}\r\n`)
        socket.write(text)
        socket.write("\r\n")
      }
    })
  }

  private connecting: NodeJS.Timeout | undefined

  private receive(reply: Protocol.Reply): void {
    const request = this.sent[this.sentFrom]
    if (request === undefined) {
      this.lose({ reason: "Unknown", description: "the server sent what it was not asked for", sent: true })
      return
    }
    this.sentFrom++
    if (this.sentFrom === this.sent.length) {
      this.sent = []
      this.sentFrom = 0
    } else if (this.sentFrom > 1_024 && this.sentFrom * 2 > this.sent.length) {
      this.sent = this.sent.slice(this.sentFrom)
      this.sentFrom = 0
    }
    const { settle } = request
    request.settle = undefined
    settle?.(reply, undefined)
  }

  /** Looks after the oldest request. One timer, whatever is under way. */
  private watch(): void {
    if (this.timer !== undefined) return
    const oldest = this.sent[this.sentFrom]
    if (oldest === undefined) return
    this.timer = setTimeout(
      () => {
        // after what this process was too busy to read
        setImmediate(() => {
          this.timer = undefined
          this.look()
          this.watch()
        })
      },
      Math.max(10, oldest.due - performance.now())
    )
  }

  private look(): void {
    const now = performance.now()
    const { commandTimeout } = this.options
    const oldest = this.sent[this.sentFrom]
    if (oldest === undefined || oldest.due > now) return
    const timeout: Failure = {
      reason: "Timeout",
      description: `the server did not answer within ${commandTimeout} ms; what was asked may have been done all the same`,
      sent: true
    }
    if (this.lastHeard < oldest.due - commandTimeout || now - this.lastHeard >= commandTimeout) {
      // nothing has come since it was sent: nothing will
      this.lose(timeout)
      return
    }
    // it is answering, slowly: those that are late are told, and their replies still have their turn
    for (let at = this.sentFrom; at < this.sent.length; at++) {
      const request = this.sent[at]
      if (request === undefined || request.due > now) break
      const { settle } = request
      request.settle = undefined
      request.due = now + commandTimeout
      settle?.(undefined, timeout)
    }
  }

  /** The socket is gone, or is given up. */
  private lose(failure: Failure): void {
    const { sent, sentFrom, socket, state, waiting } = this
    clearTimeout(this.timer)
    clearTimeout(this.connecting)
    this.timer = undefined
    this.socket = undefined
    this.state = "none"
    this.sent = []
    this.sentFrom = 0
    this.waiting = new Set()
    this.outgoing = []
    if (socket !== undefined) {
      // what it still has to say is heard by nobody
      socket.removeAllListeners("data")
      socket.destroy()
    }
    if (state === "connecting") {
      const pause = Math.min(longestPause, firstPause * 2 ** Math.min(this.failures, 10))
      this.failures++
      // not all clients of a server come back at once
      this.notBefore = performance.now() + Crypto.randomInt(Math.ceil(pause / 2), pause + 1)
      this.lastFailure = failure
    }
    const unsent: Failure = { ...failure, sent: false }
    const lost: Failure =
      failure.reason === "Timeout" || !failure.sent
        ? failure
        : { ...failure, description: `${failure.description}; what was asked may have been done all the same` }
    for (let at = sentFrom; at < sent.length; at++) sent[at]?.settle?.(undefined, lost)
    for (const request of waiting) request.settle?.(undefined, unsent)
  }
}
