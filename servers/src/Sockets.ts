/** The sockets of this machine by the kernel's own list (Linux): what a client left behind, whatever it says itself. */
import * as Fs from "node:fs"
import * as Effect from "effect/Effect"

/**
 * How many sockets that lead to this port of the loopback are still held by a process, in whatever state: also those that
 * were ended and not let go of. One that was closed is not counted, though the kernel may not be done with it.
 */
export const heldTo = (port: number): Effect.Effect<number> =>
  Effect.sync(() => {
    const wanted = `:${port.toString(16).toUpperCase().padStart(4, "0")}`
    return ["/proc/net/tcp", "/proc/net/tcp6"]
      .flatMap((file) => (Fs.existsSync(file) ? Fs.readFileSync(file, "utf8").split("\n").slice(1) : []))
      .filter((line) => {
        // sl local remote state queues timer retransmits uid timeout inode; who is closed has none.
        const [, , remote = "", , , , , , , inode = "0"] = line.trim().split(/\s+/)
        return remote.endsWith(wanted) && inode !== "0"
      }).length
  })
