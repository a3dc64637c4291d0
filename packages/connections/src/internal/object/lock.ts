/**
 * A lock between processes: a file that only one can make. It is held for the moments between looking at an object and
 * replacing it. One whose holder is gone, or that is older than any holder, is removed.
 */
import * as Fs from "node:fs/promises"
import * as Os from "node:os"

const stale = 30_000
const host = Os.hostname()

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
  if (await make(path)) return true
  if (!(await isAbandoned(path))) return false
  // Of those who see that it is abandoned one removes it: who is later would remove the next one's.
  const removal = `${path}.removal`
  if (!(await make(removal))) {
    const age = await ageOf(removal)
    if (age !== undefined && age > stale) await Fs.rm(removal, { force: true })
    return false
  }
  try {
    if (await isAbandoned(path)) await Fs.rm(path, { force: true })
  } finally {
    await Fs.rm(removal, { force: true })
  }
  return make(path)
}

export const release = (path: string): Promise<void> => Fs.rm(path, { force: true })

const make = async (path: string): Promise<boolean> => {
  try {
    await Fs.writeFile(path, `${process.pid} ${host}`, { flag: "wx" })
    return true
  } catch (error) {
    if (codeOf(error) === "EEXIST") return false
    throw error
  }
}

const ageOf = async (path: string): Promise<number | undefined> => {
  try {
    return Date.now() - (await Fs.stat(path)).mtimeMs
  } catch {
    return undefined
  }
}

const isAbandoned = async (path: string): Promise<boolean> => {
  try {
    const age = await ageOf(path)
    if (age === undefined) return false
    if (age > stale) return true
    const [pid, where] = (await Fs.readFile(path, "utf8")).split(" ")
    return where === host && pid !== undefined && /^\d+$/.test(pid) && !exists(Number(pid))
  } catch {
    return false
  }
}
