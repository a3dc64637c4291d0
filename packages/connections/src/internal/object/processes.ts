/**
 * Where a process runs, so that its number means something. Containers can have one host name, and each counts its
 * processes from one: a number is known where the kernel's boot and the table of processes are the same, too.
 */
import * as Crypto from "node:crypto"
import * as Fs from "node:fs"
import * as Os from "node:os"

/** A name for it, of letters, digits, `-` and `_`. */
export const placeOf = (host: string, boot: string, table: string): string =>
  `${host.replace(/[^A-Za-z0-9-]/g, "_")}-${Crypto.createHash("sha256").update(`${host}\n${boot}\n${table}`).digest("hex").slice(0, 16)}`

/** Where there is no such file, the host name is all that is known. */
const orNothing = (read: () => string): string => {
  try {
    return read().trim()
  } catch {
    return ""
  }
}

export const boot = (): string => orNothing(() => Fs.readFileSync("/proc/sys/kernel/random/boot_id", "latin1"))
export const table = (): string => orNothing(() => Fs.readlinkSync("/proc/self/ns/pid"))

let known: string | undefined

/** That of this process. */
export const here = (): string => {
  known ??= placeOf(Os.hostname(), boot(), table())
  return known
}
