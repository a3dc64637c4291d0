/**
 * Both directions between the Atlassian Document Format and Markdown; loaded when one of them is first used.
 */
import * as Adf from "./adf.ts"
import type { AdfDocument } from "./adfText.ts"
import { Refused } from "./xml.ts"

export { toMarkdown } from "./adf.ts"
export { Refused }

const most = 500_000

export const fromMarkdown = (markdown: string): AdfDocument => {
  if (markdown.length > most) {
    throw new Refused("TooLarge", `it has ${markdown.length} characters, and ${most} are taken`)
  }
  return Adf.fromMarkdown(markdown)
}
