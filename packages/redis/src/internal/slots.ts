/**
 * The slot of a key in a Cluster: CRC16 (XMODEM) of the key, or of its hash tag, modulo 16,384.
 */
import { Buffer } from "node:buffer"
import type { Argument } from "./driver.ts"

const table = Uint16Array.from({ length: 256 }, (_, index) => {
  let crc = index << 8
  for (let bit = 0; bit < 8; bit++) crc = (crc & 0x80_00) !== 0 ? (crc << 1) ^ 0x10_21 : crc << 1
  return crc & 0xff_ff
})

const open = 0x7b
const close = 0x7d

export const count = 16_384

export const ofKey = (key: Argument): number => {
  const bytes = key instanceof Uint8Array ? key : Buffer.from(String(key))
  let start = 0
  let end = bytes.length
  const tag = bytes.indexOf(open)
  if (tag >= 0) {
    const last = bytes.indexOf(close, tag + 1)
    // an empty tag is none
    if (last > tag + 1) {
      start = tag + 1
      end = last
    }
  }
  let crc = 0
  for (let index = start; index < end; index++) {
    crc = ((crc << 8) ^ (table[((crc >> 8) ^ (bytes[index] ?? 0)) & 0xff] ?? 0)) & 0xff_ff
  }
  return crc % count
}
