/**
 * A lock between processes: a file that only one can make. It is held for the moments between looking at an object and
 * replacing it. One whose holder is gone is removed; of a holder on another machine, or of whom nothing is known, that is
 * taken for granted when the file is older than any holder.
 */
import * as Crypto from "node:crypto"
import * as Fs from "node:fs/promises"
import { here } from "./processes.ts"

const stale = 30_000
/** A holder gives up by himself when he has it for so long. */
export const longest = 10_000

/** When a process began, by the kernel's count: its number alone can be that of another, later. */
const beginOf = async (pid: number): Promise<string | undefined> => {
  try {
    const stat = await Fs.readFile(`/proc/${pid}/stat`, "latin1")
    // What comes before is the name, in which anything can stand.
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19]
  } catch {
    return undefined
  }
}

// What is in the file of a lock of this process, by its path.
const mine = new Map<string, string>()

const codeOf = (error: unknown): string =>
  error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : ""

const exists = (pid: number): boolean => {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return codeOf(error) === "EPERM"
  }
}

/** Whether it was made. Otherwise somebody has it. */
export const tryAcquire = async (path: string): Promise<boolean> => {
  if (await take(path)) return true
  if (!(await isAbandoned(path))) return false
  // Of those who see that it is abandoned one removes it: who is later would remove the next one's.
  const removal = `${path}.removal`
  if ((await make(removal)) === undefined) {
    const age = await ageOf(removal)
    if (age !== undefined && age > stale) await Fs.rm(removal, { force: true })
    return false
  }
  try {
    if (await isAbandoned(path)) await Fs.rm(path, { force: true })
  } finally {
    await Fs.rm(removal, { force: true })
  }
  return take(path)
}

const take = async (path: string): Promise<boolean> => {
  const content = await make(path)
  if (content === undefined) return false
  mine.set(path, content)
  return true
}

/** Gives it back, unless it was taken meanwhile and is another's. */
export const release = async (path: string): Promise<void> => {
  const content = mine.get(path)
  mine.delete(path)
  if (content !== undefined && (await Fs.readFile(path, "utf8")) === content) await Fs.rm(path, { force: true })
}

const make = async (path: string): Promise<string | undefined> => {
  const content = `${process.pid} ${here()} ${(await beginOf(process.pid)) ?? "-"} ${Crypto.randomUUID()}`
  try {
    await Fs.writeFile(path, content, { flag: "wx" })
    return content
  } catch (error) {
    if (codeOf(error) === "EEXIST") return undefined
    throw error
  }
}

const ageOf = async (path: string): Promise<number | undefined> => {
  try {
    // the times of files are the machine's, whatever clock the program has
    return Date.now() - (await Fs.stat(path)).mtimeMs
  } catch {
    return undefined
  }
}

const isAbandoned = async (path: string): Promise<boolean> => {
  try {
    const age = await ageOf(path)
    if (age === undefined) return false
    const [pid, where, began] = (await Fs.readFile(path, "utf8")).split(" ")
    if (where !== here() || pid === undefined || !/^\d+$/.test(pid)) return age > stale
    if (!exists(Number(pid))) return true
    const begin = await beginOf(Number(pid))
    // Where the kernel does not say when a process began, its number may be another's by now.
    return begin === undefined || began === undefined || began === "-" ? age > 20 * stale : begin !== began
  } catch {
    return false
  }
}
