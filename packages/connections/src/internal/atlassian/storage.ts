/**
 * Both directions between the storage format and Markdown; loaded when one of them is first used.
 */
import * as Markdown from "./markdown.ts"
import * as StorageRead from "./storageRead.ts"
import * as StorageWrite from "./storageWrite.ts"
import * as Xml from "./xml.ts"

export { Refused } from "./xml.ts"

const limit = (text: string, most: number): void => {
  if (text.length > most) throw new Xml.Refused("TooLarge", `it has ${text.length} characters, and ${most} are taken`)
}

export const toMarkdown = (storage: string, unsupported: "keep" | "text", maxLength = 5_000_000): string => {
  limit(storage, maxLength)
  return Markdown.print({ type: "root", children: StorageRead.blocks(Xml.parse(storage), { unsupported }) })
}

export const fromMarkdown = (markdown: string, raw: boolean, maxLength = 500_000): string => {
  limit(markdown, maxLength)
  const source = markdown.replace(/\r\n?/g, "\n")
  return Xml.write(StorageWrite.write(Markdown.parse(source), { source, raw }))
}
