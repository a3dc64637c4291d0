/**
 * Asking the server, over a connection of its own, to cancel what another connection runs: by that connection's own key,
 * so that it can never hit a third.
 */
import * as Net from "node:net"
import * as Tls from "node:tls"

/** The server's process, where it is. */
export interface Target {
  readonly processID: number | null
  readonly secretKey: number | null
  /** Where the connection itself goes, which the name of the host may not resolve to any more; undefined for sockets. */
  readonly address: { readonly host: string; readonly port: number } | undefined
  readonly host: string
  readonly port: number
  readonly ssl: boolean | Tls.ConnectionOptions
}

const message = (...words: ReadonlyArray<number>): Buffer => {
  const buffer = Buffer.alloc(4 * (words.length + 1))
  buffer.writeInt32BE(buffer.length, 0)
  words.forEach((word, index) => {
    buffer.writeInt32BE(word, 4 * (index + 1))
  })
  return buffer
}

/**
 * Sends the request and calls back once: when the server has passed it on, which it shows by closing, or when it cannot
 * be reached within `millis`.
 */
export const cancel = (target: Target, millis: number, done: () => void): void => {
  const { address, host, port, processID, secretKey, ssl } = target
  if (processID === null || secretKey === null) {
    done()
    return
  }
  const request = message(80877102, processID, secretKey)
  const socket =
    address !== undefined
      ? Net.connect(address.port, address.host)
      : host.startsWith("/")
        ? Net.connect(`${host}/.s.PGSQL.${port}`)
        : Net.connect(port, host)
  let once = false
  const end = (): void => {
    if (once) return
    once = true
    clearTimeout(limit)
    socket.destroy()
    done()
  }
  const limit = setTimeout(end, millis)
  socket.on("error", end)
  socket.on("close", end)
  socket.once("connect", () => {
    if (ssl === false) {
      socket.resume()
      socket.write(request)
      return
    }
    socket.write(message(80877103))
    socket.once("data", (answer) => {
      if (answer.toString("latin1", 0, 1) !== "S") return end()
      const secure = Tls.connect({
        socket,
        host,
        ...(Net.isIP(host) === 0 ? { servername: host } : {}),
        ...(ssl === true ? {} : ssl)
      })
      secure.on("error", end)
      secure.resume()
      secure.once("secureConnect", () => secure.write(request))
    })
  })
}
