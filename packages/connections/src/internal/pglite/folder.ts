/** A folder of data belongs to one process at a time: a file beside it says to which. */
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { ConnectionError } from "@underlay/core/connection/Connection"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"

// Those of this process: its number alone does not tell, since a container that starts again has the same.
const held = new Set<string>()

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return typeof error === "object" && error !== null && "code" in error && error.code === "EPERM"
  }
}

const isHeld = (file: string): boolean => {
  if (held.has(file)) return true
  const [host, pid] = read(file).split(" ")
  // What another machine holds cannot be asked after.
  return host !== Os.hostname() ? host !== "" : Number(pid) !== process.pid && isAlive(Number(pid))
}

const read = (file: string): string => {
  try {
    return Fs.readFileSync(file, "utf8").trim()
  } catch {
    return ""
  }
}

const take = (file: string): boolean => {
  // The second time what was left by a process that is gone is out of the way.
  for (let attempt = 0; attempt < 2; attempt++) {
    try {
      Fs.writeFileSync(file, `${Os.hostname()} ${process.pid}\n`, { flag: "wx" })
      held.add(file)
      return true
    } catch (error) {
      if (typeof error !== "object" || error === null || !("code" in error) || error.code !== "EEXIST") throw error
      if (isHeld(file)) return false
      Fs.rmSync(file, { force: true })
    }
  }
  return false
}

/** The path of a data folder on disk; undefined for what is in memory or a browser's. */
export const pathOf = (dataDir: string | undefined): string | undefined => {
  if (dataDir === undefined || dataDir === "") return undefined
  if (dataDir.startsWith("file://")) return Path.resolve(dataDir.slice("file://".length))
  return /^[a-z-]+:/i.test(dataDir) ? undefined : Path.resolve(dataDir)
}

/** Holds the folder for as long as the scope is open. */
export const hold = (
  at: { readonly kind: string; readonly name: string },
  dataDir: string | undefined
): Effect.Effect<void, ConnectionError, Scope.Scope> => {
  const path = pathOf(dataDir)
  if (path === undefined) return Effect.void
  const file = `${path}.lock`
  const failure = (reason: "Conflict" | "PermissionDenied", description: string, cause?: unknown) =>
    new ConnectionError({
      reason,
      kind: at.kind,
      connection: at.name,
      method: "start",
      description,
      sent: false,
      ...(cause === undefined ? {} : { cause })
    })
  return Effect.acquireRelease(
    Effect.flatMap(
      Effect.try({
        try: () => {
          Fs.mkdirSync(Path.dirname(path), { recursive: true })
          return take(file)
        },
        catch: (cause) =>
          failure(
            "PermissionDenied",
            "the folder of the data cannot be made or written: let this user write there, `original` names it",
            cause
          )
      }),
      (taken) =>
        taken
          ? Effect.void
          : failure(
              "Conflict",
              "the folder of the data is in use by another process, or by another connection of this one: " +
                "close that, or, if it is gone, remove the file beside the folder that ends in .lock"
            )
    ),
    () =>
      Effect.sync(() => {
        held.delete(file)
        Fs.rmSync(file, { force: true })
      })
  )
}
