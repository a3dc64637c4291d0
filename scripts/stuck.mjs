// A reporter of the test runner: a file that does not end stops the run, by name. No timeout of the runner's own helps where
// a test never gives the thread back, nor where each of its tests runs into its timeout.
import { execFileSync } from "node:child_process"
import { relative } from "node:path"
import { root } from "./pnpm.mjs"

const limit = Number(process.env.UNDERLAY_TEST_FILE_SECONDS ?? 480) * 1000

export default class Stuck {
  running = new Map()

  onInit() {
    this.timer = setInterval(() => this.look(), 5000)
    this.timer.unref()
  }

  onTestModuleStart(module) {
    this.running.set(module.id, { since: Date.now(), name: relative(root, module.moduleId), test: "none", failed: [] })
  }

  onTestCaseReady(test) {
    const entry = this.running.get(test.module.id)
    if (entry !== undefined) entry.test = test.fullName
  }

  onTestCaseResult(test) {
    const entry = this.running.get(test.module.id)
    if (entry !== undefined && test.result().state === "failed") entry.failed.push(test)
  }

  onTestModuleEnd(module) {
    this.running.delete(module.id)
  }

  onTestRunEnd() {
    clearInterval(this.timer)
  }

  look() {
    const late = [...this.running.values()].filter((entry) => Date.now() - entry.since > limit)
    if (late.length === 0) return
    for (const entry of late) {
      console.error(`${entry.name} has not ended after ${limit / 1000} s. The last test it told of: ${entry.test}.`)
      for (const test of entry.failed) {
        console.error(`  failed: ${test.fullName}: ${test.result().errors?.[0]?.message ?? "no message"}`)
      }
    }
    this.stop()
  }

  /** The workers with the run: one that never gives its thread back does not hear that its parent is gone. */
  stop() {
    let children = ""
    try {
      children = execFileSync("pgrep", ["-P", String(process.pid)], { encoding: "utf8" })
    } catch {
      // no pgrep here
    }
    for (const pid of children.split("\n").filter((line) => line !== "")) {
      try {
        process.kill(Number(pid), "SIGKILL")
      } catch {
        // pgrep itself, or a worker that is gone already
      }
    }
    process.exit(1)
  }
}
