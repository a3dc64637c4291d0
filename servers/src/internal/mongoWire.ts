/**
 * MongoDB's wire protocol from the server's side: OP_MSG, and OP_QUERY for the handshake. What answers the commands is
 * for others to say.
 */
import * as Net from "node:net"
import * as Bson from "bson"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Machine from "./machine.ts"

/** A BSON document. */
export type Doc = { [key: string]: unknown }

/** One client's connection. Its commands are answered one after another. */
export interface Peer {
  readonly id: number
  /** Aborted when the connection is gone: what a command waits for is given up then. */
  readonly gone: AbortSignal
  /** Resets the connection. */
  readonly reset: () => void
  /** What the handlers keep with a connection. */
  readonly state: { [key: string]: unknown }
}

/** One command, its documents and arrays in one body. */
export interface Command {
  /** The first key of the body. */
  readonly name: string
  readonly body: Doc
  readonly database: string
}

/** A command that failed, as the server tells it. */
export class CommandError extends Error {
  readonly code: number
  readonly codeName: string
  readonly labels: ReadonlyArray<string>
  readonly extra: Doc
  constructor(code: number, codeName: string, message: string, labels: ReadonlyArray<string> = [], extra: Doc = {}) {
    super(message)
    this.code = code
    this.codeName = codeName
    this.labels = labels
    this.extra = extra
  }
  reply(): Doc {
    return {
      ok: 0,
      errmsg: this.message,
      code: this.code,
      codeName: this.codeName,
      ...(this.labels.length === 0 ? {} : { errorLabels: [...this.labels] }),
      ...this.extra
    }
  }
}

/** Gives the answer to a command; `undefined` says nothing. */
export type Handler = (command: Command, peer: Peer) => Promise<Doc | undefined>

/** A listening server. */
export interface Listener {
  readonly host: string
  readonly port: number
  readonly connections: () => number
  readonly resetAll: () => void
  /** Stops listening and resets all connections; `listen` comes back to the same port. */
  readonly close: Effect.Effect<void>
  readonly listen: Effect.Effect<void>
}

const opReply = 1
const opQuery = 2004
const opMsg = 2013

const header = (length: number, responseTo: number, code: number): Buffer => {
  const buffer = Buffer.alloc(16)
  buffer.writeInt32LE(length, 0)
  buffer.writeInt32LE(0, 4)
  buffer.writeInt32LE(responseTo, 8)
  buffer.writeInt32LE(code, 12)
  return buffer
}

/** Int64 come as `Long` where a number would lose something, binaries as `Binary`. */
export const deserialize = (bytes: Uint8Array): Doc => Bson.deserialize(bytes)

/** Every value with its type, so that it can be passed on as it is. */
export const deserializeExactly = (bytes: Uint8Array): Doc =>
  Bson.deserialize(bytes, { promoteValues: false, promoteLongs: false, promoteBuffers: false })

interface Parsed {
  readonly requestId: number
  readonly legacy: boolean
  readonly silent: boolean
  readonly body: Doc
  readonly database: string
}

const parse = (message: Buffer, deserialize: (bytes: Uint8Array) => Doc): Parsed => {
  const requestId = message.readInt32LE(4)
  const code = message.readInt32LE(12)
  if (code === opQuery) {
    let at = 20
    while (message[at] !== 0) at++
    const namespace = message.toString("utf8", 20, at)
    at += 1 + 8
    const size = message.readInt32LE(at)
    return {
      requestId,
      legacy: true,
      silent: false,
      body: deserialize(message.subarray(at, at + size)),
      database: namespace.split(".")[0] ?? "admin"
    }
  }
  if (code !== opMsg) throw new Error(`opcode ${code} is not supported`)
  const flags = message.readUInt32LE(16)
  const end = message.length - ((flags & 1) === 0 ? 0 : 4)
  let at = 20
  let body: Doc = {}
  const sequences: Array<readonly [string, Array<Doc>]> = []
  while (at < end) {
    const kind = message[at++]
    const size = message.readInt32LE(at)
    if (kind === 0) body = deserialize(message.subarray(at, at + size))
    else {
      const stop = at + size
      let from = at + 4
      let nameEnd = from
      while (message[nameEnd] !== 0) nameEnd++
      const name = message.toString("utf8", from, nameEnd)
      from = nameEnd + 1
      const documents: Array<Doc> = []
      while (from < stop) {
        const length = message.readInt32LE(from)
        documents.push(deserialize(message.subarray(from, from + length)))
        from += length
      }
      sequences.push([name, documents])
    }
    at += size
  }
  for (const [name, documents] of sequences) body[name] = documents
  return {
    requestId,
    legacy: false,
    silent: (flags & 2) !== 0,
    body,
    database: typeof body["$db"] === "string" ? body["$db"] : "admin"
  }
}

const replyOf = (request: Parsed, answer: Doc): Buffer => {
  const document = Bson.serialize(answer, { ignoreUndefined: true })
  if (request.legacy) {
    const fields = Buffer.alloc(20)
    fields.writeInt32LE(8, 0)
    fields.writeInt32LE(1, 16)
    return Buffer.concat([header(36 + document.length, request.requestId, opReply), fields, document])
  }
  return Buffer.concat([header(21 + document.length, request.requestId, opMsg), Buffer.alloc(5), document])
}

/** Listens for the life of the scope. */
export const serve = (
  handler: Handler,
  port?: number,
  read: (bytes: Uint8Array) => Doc = deserialize
): Effect.Effect<Listener, never, Scope.Scope> =>
  Effect.gen(function* () {
    const sockets = new Set<Net.Socket>()
    let server: Net.Server | undefined
    let count = 0
    const at = port ?? (yield* Machine.freePort)

    const accept = (socket: Net.Socket): void => {
      const gone = new AbortController()
      const peer: Peer = { id: ++count, gone: gone.signal, reset: () => socket.resetAndDestroy(), state: {} }
      sockets.add(socket)
      socket.setNoDelay(true)
      socket.on("error", () => {})
      socket.on("close", () => {
        sockets.delete(socket)
        gone.abort()
      })
      let buffer: Buffer = Buffer.alloc(0)
      let turn = Promise.resolve()
      const answer = async (message: Buffer): Promise<void> => {
        if (socket.destroyed) return
        const request = parse(message, read)
        const name = Object.keys(request.body)[0] ?? ""
        let reply: Doc | undefined
        try {
          reply = await handler({ name, body: request.body, database: request.database }, peer)
        } catch (error) {
          reply =
            error instanceof CommandError
              ? error.reply()
              : new CommandError(8, "UnknownError", error instanceof Error ? error.message : "it failed").reply()
        }
        if (reply !== undefined && !request.silent && !socket.destroyed) socket.write(replyOf(request, reply))
      }
      socket.on("data", (chunk: Buffer) => {
        buffer = buffer.length === 0 ? chunk : Buffer.concat([buffer, chunk])
        while (buffer.length >= 16) {
          const size = buffer.readInt32LE(0)
          if (buffer.length < size) return
          const message = Buffer.from(buffer.subarray(0, size))
          buffer = buffer.subarray(size)
          turn = turn.then(() => answer(message)).catch(() => peer.reset())
        }
      })
    }

    const listen = Effect.async<void>((resume) => {
      if (server !== undefined) {
        resume(Effect.void)
        return
      }
      const created = Net.createServer(accept)
      created.once("error", (error) => resume(Effect.die(error)))
      created.listen(at, Machine.host, () => {
        server = created
        resume(Effect.void)
      })
    })
    const resetAll = (): void => {
      for (const socket of [...sockets]) socket.resetAndDestroy()
    }
    const close = Effect.sync(() => {
      server?.close()
      server = undefined
      resetAll()
    })
    yield* Effect.acquireRelease(listen, () => close)
    return { host: Machine.host, port: at, connections: () => sockets.size, resetAll, close, listen }
  })

/** A pause that ends when the client is gone. */
export const pause = (millis: number, peer: Peer): Promise<void> =>
  new Promise((resolve) => {
    const timer = setTimeout(done, millis)
    function done(): void {
      clearTimeout(timer)
      peer.gone.removeEventListener("abort", done)
      resolve()
    }
    peer.gone.addEventListener("abort", done)
    if (peer.gone.aborted) done()
  })
