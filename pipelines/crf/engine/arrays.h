// Arrays aligned to cache lines. The memory of freed arrays is kept for the next image.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

#include <sys/mman.h>

namespace crf {

// Large blocks that this thread has freed. The system clears fresh memory before it hands it out, which would take a
// tenth of all the time, and a third for images of two megapixels; a thread keeps at most LIMIT bytes, which is enough
// for those. Blocks are mapped, so that they can be split and joined: what one step of the work frees serves the next
// one, whatever their sizes are.
class Spares {
public:
    static Spares& of_thread() {
        static thread_local Spares spares;
        return spares;
    }

    // A block of at least `bytes`, which is set to the size of the block.
    void* take(size_t& bytes) {
        if (bytes < UNIT) {
            bytes = (bytes / LINE + 1) * LINE;
            void* const memory = std::aligned_alloc(LINE, bytes);
            if (!memory) throw std::bad_alloc();
            return memory;
        }
        bytes = (bytes + UNIT - 1) / UNIT * UNIT;
        int best = -1;
        for (int i = 0; i < count_; ++i) {
            if (blocks_[i].bytes >= bytes && (best < 0 || blocks_[i].bytes < blocks_[best].bytes)) best = i;
        }
        if (best < 0) return map(bytes);
        const Block block = remove(best);
        if (block.bytes > bytes) add({block.start + bytes, block.bytes - bytes});
        return block.start;
    }

    void give(void* memory, size_t bytes) {
        if (bytes < UNIT) return std::free(memory);
        Block block{static_cast<char*>(memory), bytes};
        for (int i = count_ - 1; i >= 0; --i) {
            const Block other = blocks_[i];
            const bool before = other.start + other.bytes == block.start;
            const bool after = block.start + block.bytes == other.start;
            if (!(before || after) || other.bytes + block.bytes > LIMIT) continue;
            remove(i);
            block = {before ? other.start : block.start, other.bytes + block.bytes};
        }
        while (count_ && (count_ == MAX_BLOCKS || total_ + block.bytes > LIMIT)) unmap(remove(0));
        if (block.bytes > LIMIT) return unmap(block);
        add(block);
    }

    ~Spares() {
        while (count_) unmap(remove(0));
    }

private:
    static constexpr size_t LINE = 64;
    static constexpr size_t UNIT = 1 << 16;  // a multiple of the page size of any system
    static constexpr size_t LIMIT = 512 << 20;
    static constexpr int MAX_BLOCKS = 64;

    struct Block {
        char* start;
        size_t bytes;
    };

    static char* map(size_t bytes) {
        void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        return static_cast<char*>(memory);
    }

    static void unmap(const Block& block) { munmap(block.start, block.bytes); }

    void add(const Block& block) {
        blocks_[count_] = block;
        ++count_;
        total_ += block.bytes;
    }

    Block remove(int i) {
        const Block block = blocks_[i];
        --count_;
        std::memmove(blocks_ + i, blocks_ + i + 1, (count_ - i) * sizeof(Block));
        total_ -= block.bytes;
        return block;
    }

    Block blocks_[MAX_BLOCKS];  // the oldest first
    int count_ = 0;
    size_t total_ = 0;  // bytes
};

// A growing array of plain values, which starts uninitialised. It can be moved, but not copied.
template <class T>
class Array {
    static_assert(std::is_trivially_copyable<T>::value);

public:
    Array() = default;

    explicit Array(size_t size) {
        reserve(size);
        size_ = size;
    }

    // Every byte of every element is `byte`.
    Array(size_t size, int byte) : Array(size) { std::memset(static_cast<void*>(data_), byte, size * sizeof(T)); }

    Array(Array&& other) noexcept { swap(other); }

    Array& operator=(Array&& other) noexcept {
        swap(other);
        return *this;
    }

    ~Array() {
        if (data_) Spares::of_thread().give(data_, bytes_);
    }

    T& operator[](size_t i) { return data_[i]; }
    const T& operator[](size_t i) const { return data_[i]; }
    T* data() { return data_; }
    const T* data() const { return data_; }
    size_t size() const { return size_; }

    // Makes room for `more` elements past the end, and returns where they begin. When the array has to move, it takes
    // room for `expected` elements in all if that is more.
    T* room(size_t more, size_t expected = 0) {
        if ((size_ + more) * sizeof(T) > bytes_) {
            const size_t least = size_ + more + size_ / 4;
            reserve(expected > least ? expected : least);
        }
        return data_ + size_;
    }

    // Appends `more` elements, which the caller fills or has filled, and returns the first of them.
    T* extend(size_t more) {
        T* const first = room(more);
        size_ += more;
        return first;
    }

    void append(T value) { *extend(1) = value; }

private:
    void swap(Array& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        std::swap(bytes_, other.bytes_);
    }

    void reserve(size_t capacity) {
        size_t bytes = capacity * sizeof(T);
        T* const larger = static_cast<T*>(Spares::of_thread().take(bytes));
        if (size_) std::memcpy(static_cast<void*>(larger), data_, size_ * sizeof(T));
        if (data_) Spares::of_thread().give(data_, bytes_);
        data_ = larger;
        bytes_ = bytes;
    }

    T* data_ = nullptr;
    size_t size_ = 0;
    size_t bytes_ = 0;  // the size of the block, which may be larger than `size_` elements
};

}  // namespace crf
