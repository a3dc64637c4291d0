/**
 * A server in a process of its own that begins answers and never ends them: as its argument says, with nothing, with a
 * comment, or with twenty pieces. It tells its parent of each request and of how many connections are open, keeps nothing,
 * and ends with its parent.
 */
import * as Http from "node:http"
import { chunk } from "./server.ts"

const beginnings: Record<string, ReadonlyArray<string> | undefined> = {
  silent: undefined,
  ping: [": ping\n\n"],
  flowing: Array<string>(20).fill(chunk({ content: "word " }))
}
const beginning = beginnings[process.argv[2] ?? ""]

let seen = 0
let open = 0
const tell = () => process.send?.({ seen, open })

const server = Http.createServer((incoming, response) => {
  incoming.resume()
  incoming.on("end", () => {
    seen++
    tell()
    if (beginning === undefined) return
    response.writeHead(200, { "content-type": "text/event-stream" })
    response.flushHeaders()
    for (const text of beginning) response.write(text)
  })
})
server.on("connection", (socket) => {
  open++
  socket.once("close", () => {
    open--
    tell()
  })
})
server.listen(0, "127.0.0.1", () => {
  const address = server.address()
  process.send?.({ port: typeof address === "object" ? address?.port : undefined })
})
process.on("disconnect", () => process.exit(0))
